"""A child that waits to be needed: kept, taken, given back, and never in anybody's way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from smolorad.children import standby as module
from smolorad.children.child import Child
from smolorad.children.standby import Standby
from smolorad.errors import EngineUnavailable

pytestmark = pytest.mark.timeout(60)

LONG_S = 600.0


class Starter:
    """Starts echo children, or does as the test says."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.arguments: list[tuple[str, ...]] = []
        self.fails = self.hangs = False
        self.cancelled = asyncio.Event()

    async def __call__(self, *arguments: str) -> Child:
        self.arguments.append(arguments)
        if self.fails:
            raise EngineUnavailable("The echo ended with status 1; try again.")
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        self.children.append(await Child.spawn("tests.echo_child", name="echo", environ=os.environ))
        return self.children[-1]


@pytest.fixture
async def starter() -> AsyncIterator[Starter]:
    starter = Starter()
    yield starter
    for child in starter.children:
        await child.kill()


@pytest.fixture
async def standby(starter: Starter) -> AsyncIterator[Standby]:
    standby = Standby(starter, least_free_bytes=0)
    yield standby
    await standby.close()


async def test_what_is_kept_is_taken_once(standby: Standby, starter: Starter) -> None:
    assert await standby.take() is None
    standby.keep(LONG_S, "--for", "this")
    child = await standby.ready()
    standby.keep(LONG_S, "--for", "that")  # one is enough, whatever it was started for
    assert await standby.take() is child
    assert starter.arguments == [("--for", "this")]
    assert await standby.take() is None
    assert child is not None
    assert (await child.ping()).rss_bytes > 0, "it is the taker's, and lives"


async def test_one_that_is_still_starting_is_waited_for(standby: Standby, starter: Starter) -> None:
    standby.keep(LONG_S)
    assert standby.child is None
    assert await standby.take() is starter.children[0]


async def test_nobody_needed_it_so_it_is_given_back(standby: Standby) -> None:
    standby.keep(0.0)
    standby.keep(0.05)
    child = await standby.ready()
    if child is not None:  # else its time was over before it had started
        assert await child.wait() == -signal.SIGKILL
    assert standby.child is None
    assert await standby.take() is None


async def test_the_longest_time_that_was_asked_for_counts(standby: Standby) -> None:
    standby.keep(LONG_S)
    standby.keep(0.0)
    await asyncio.sleep(0)  # a timer that was due would have run
    assert await standby.ready() is not None


async def test_a_dead_one_is_not_handed_out_and_the_next_is_another(standby: Standby) -> None:
    standby.keep(LONG_S)
    first = await standby.ready()
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    await first.wait()
    assert standby.child is None
    standby.keep(LONG_S)
    second = await standby.take()
    assert second is not None
    assert second.pid != first.pid


async def test_one_that_died_while_it_waited_is_none(standby: Standby) -> None:
    standby.keep(LONG_S)
    child = await standby.ready()
    assert child is not None
    await child.kill()
    assert await standby.take() is None


async def test_where_memory_is_short_nobody_waits(starter: Starter) -> None:
    standby = Standby(starter, least_free_bytes=2**62)
    standby.keep(LONG_S)
    assert await standby.take() is None
    assert starter.arguments == []
    await standby.close()


async def test_one_that_cannot_start_is_none_and_the_next_is_tried(standby: Standby, starter: Starter) -> None:
    starter.fails = True
    standby.keep(LONG_S)
    assert await standby.take() is None
    starter.fails = False
    standby.keep(LONG_S)
    assert await standby.take() is starter.children[0]


async def test_one_that_does_not_get_ready_holds_nobody_up(
    standby: Standby, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.01)
    starter.hangs = True
    standby.keep(LONG_S)
    assert await standby.take() is None
    assert starter.cancelled.is_set()


async def test_who_is_cancelled_while_taking_leaves_none(standby: Standby, starter: Starter) -> None:
    starter.hangs = True
    standby.keep(LONG_S)
    taking = asyncio.create_task(standby.take())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert starter.cancelled.is_set()


async def test_closing_ends_it_for_good(standby: Standby, starter: Starter) -> None:
    standby.keep(LONG_S)
    child = await standby.ready()
    await standby.close()
    assert child is not None
    assert child.returncode == -signal.SIGKILL
    standby.keep(LONG_S)
    assert await standby.take() is None
    assert len(starter.children) == 1
