"""A real child process at the other end of a real socketpair."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing

import psutil
import pytest

from smolora.v1 import generation_pb2
from smolorad.children.child import Child
from smolorad.errors import BadData, EngineUnavailable, Violation
from smolorad.link.v1 import link_pb2 as pb

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    """The echo child."""
    running = await Child.spawn("tests.echo_child", name="echo", environ=os.environ)
    yield running
    await running.kill()


def asked(prompt: str) -> pb.Generate:
    """A command with this prompt."""
    return pb.Generate(request=generation_pb2.GenerateRequest(prompt=prompt))


async def said(child: Child, prompt: str) -> list[str]:
    """The texts of an answer."""
    return [event.text async for event in child.call(generate=asked(prompt)) if event.WhichOneof("body") == "text"]


async def test_a_call_yields_its_own_events(child: Child) -> None:
    answers = await asyncio.gather(*(said(child, f"say {i} a b {i}") for i in range(20)))
    assert answers == [[str(i), "a", "b", str(i)] for i in range(20)]


async def test_a_failure_is_raised_with_its_violations(child: Child) -> None:
    with pytest.raises(BadData, match="correct it") as error:
        await said(child, "fail")
    assert error.value.violations == (Violation("rows.txt:3", "broken"),)
    assert await said(child, "say on") == ["on"]


async def test_leaving_early_cancels_and_waits_for_the_end(child: Child) -> None:
    async with aclosing(child.call(generate=asked("hang"))) as events:
        async for event in events:
            assert event.text == "hanging"
            break
    # The child serves one call at a time: an answer means that it has left the other one.
    assert await said(child, "say free") == ["free"]


async def test_a_cancelled_task_cancels_its_call(child: Child) -> None:
    hanging = asyncio.Event()

    async def hang() -> None:
        async for _ in child.call(generate=asked("hang")):
            hanging.set()

    task = asyncio.create_task(hang())
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await said(child, "say free") == ["free"]


async def test_death_ends_every_call(child: Child) -> None:
    waiting = asyncio.create_task(said(child, "die"))
    behind = asyncio.create_task(said(child, "say never"))
    for task in (waiting, behind):
        with pytest.raises(EngineUnavailable, match="SIGKILL, perhaps for want of memory; try again"):
            await task
    assert await child.wait() == -signal.SIGKILL
    with pytest.raises(EngineUnavailable):
        await said(child, "say more")
    with pytest.raises(EngineUnavailable):
        await child.ping()


async def test_an_exit_tells_its_status(child: Child) -> None:
    with pytest.raises(EngineUnavailable, match="status 7"):
        await said(child, "exit")
    assert await child.wait() == 7


async def test_ping_is_answered_while_a_call_hangs(child: Child) -> None:
    async with aclosing(child.call(generate=asked("hang"))) as events:
        await anext(events)
        pong = await child.ping()
    assert pong.rss_bytes > 0


async def test_a_stopped_child_gives_no_sign_of_life(child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    asking = asyncio.create_task(child.ping())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await asyncio.shield(asking)
    await child.kill()
    with pytest.raises(EngineUnavailable, match="gave no sign of life and was killed"):
        await asking


async def test_drain_lets_it_end_by_itself(child: Child) -> None:
    await child.drain(10)
    assert await child.wait() == 0


async def test_closing_the_socket_ends_it(child: Child) -> None:
    await child.close()
    assert child.returncode == 1


async def test_a_module_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineUnavailable, match="status 1"):
        await Child.spawn("tests.no_such_child", name="nobody", environ=os.environ)


async def test_it_inherits_no_file_but_its_own(child: Child) -> None:
    kept = {(one.path, one.fd) for one in psutil.Process(child.pid).open_files()}
    sockets = psutil.Process(child.pid).net_connections("unix")
    assert len(sockets) == 1, "the link, and nothing of the daemon's"
    assert kept == set()
