"""Merges by the real weights worker: one that stood ready, and a fresh one where it did not."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import psutil
import pytest

from smolorad.children.child import Child
from smolorad.children.worker import WorkerProcesses
from smolorad.domain import Merged, PhaseProgress
from smolorad.engine.worker.standby import run_when_idle
from smolorad.errors import NotFound
from tests.tiny import tiny_model
from tests.unit.engine.worker.test_merge import make_adapter

pytestmark = pytest.mark.timeout(300)

LONG_S = 600.0
# torch, transformers and PEFT, the pages that they share with the engine counted in full.
WAITING_BYTES = 600_000_000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("standby") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base, base.parent / "adapter")


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[WorkerProcesses]:
    workers = WorkerProcesses(os.environ, tmp_path / "cache")
    yield workers
    await workers.close()


async def waiting(workers: WorkerProcesses, base: Path | None) -> Child:
    """One that is ready to merge."""
    workers.expect_merge(LONG_S, base)
    ready = asyncio.ensure_future(workers.standby.ready())
    while not ready.done():
        _hurry()
        await asyncio.wait([ready], timeout=0.2)
    child = ready.result()
    assert child is not None
    return child


def _hurry() -> None:
    """Where the system allows it, has children prepare though no core is idle: other tests may keep all of them busy."""
    for child in psutil.Process().children():
        with suppress(OSError, psutil.Error, AttributeError):  # not root, gone, or not Linux
            for thread in child.threads():
                os.sched_setscheduler(thread.id, os.SCHED_OTHER, os.sched_param(0))


async def merged(workers: WorkerProcesses, base: Path, adapter: Path, output: Path) -> tuple[Merged, set[int]]:
    """The result, and who made it."""
    pids: set[int] = set()
    made = None
    async with aclosing(workers.merge(base, adapter, output)) as events:
        async for event in events:
            pids |= {process.pid for process in psutil.Process().children()}
            made = event
    assert isinstance(made, Merged)
    assert {path.name for path in output.iterdir()} == set(made.sums)
    return made, pids


async def test_the_one_that_stands_ready_merges_and_ends_and_one_that_died_is_replaced(
    workers: WorkerProcesses, base: Path, adapter: Path, tmp_path: Path
) -> None:
    child = await waiting(workers, base)
    os.kill(child.pid, 9)  # nobody has noticed yet when the merge begins
    plain, pids = await merged(workers, base, adapter, tmp_path / "plain")
    assert pids - {child.pid}
    child = await waiting(workers, base)
    assert (await child.ping()).rss_bytes < WAITING_BYTES
    again, pids = await merged(workers, base, adapter, tmp_path / "again")
    assert child.pid in pids
    assert child.is_gone
    assert again == plain
    assert workers.standby.child is None


@pytest.mark.long  # test_merge.py has a base that cannot be prefetched, in one process
async def test_what_cannot_be_known_ahead_hinders_nothing(
    workers: WorkerProcesses, base: Path, adapter: Path, tmp_path: Path
) -> None:
    child = await waiting(workers, tmp_path / "nowhere")
    _, pids = await merged(workers, base, adapter, tmp_path / "output")
    assert child.pid in pids


@pytest.mark.long  # it goes the way of any failure, once the ready one has the command
async def test_a_failure_of_the_ready_one_is_told_as_ever(
    workers: WorkerProcesses, base: Path, adapter: Path, tmp_path: Path
) -> None:
    child = await waiting(workers, base)
    with pytest.raises(NotFound, match="no folder"):
        await merged(workers, tmp_path / "nowhere", adapter, tmp_path / "output")
    assert child.is_gone


async def test_who_leaves_early_ends_the_ready_one(workers: WorkerProcesses, base: Path, adapter: Path, tmp_path: Path) -> None:
    child = await waiting(workers, base)
    async with aclosing(workers.merge(base, adapter, tmp_path / "output")) as events:
        assert isinstance(await anext(events), PhaseProgress)
    assert child.is_gone
    assert not (tmp_path / "output").exists()


@pytest.mark.long  # test_standby.py has it with a child that imports nothing
async def test_closing_ends_the_ready_one(workers: WorkerProcesses, base: Path) -> None:
    child = await waiting(workers, base)
    await workers.close()
    assert child.is_gone


def test_it_ends_with_the_daemon_also_while_it_imports() -> None:
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, "-m", "smolorad.engine.worker.standby", "--link-fd", str(its.fileno())]
        process = subprocess.Popen(command, pass_fds=[its.fileno()])
    ours.close()
    assert process.wait(60) == 1


def test_work_that_is_in_nobodys_way_leaves_its_own_thread_as_it_was() -> None:
    assert run_when_idle(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_when_idle(lambda: 1 // 0)
    if sys.platform == "linux":
        before = os.sched_getscheduler(0)
        assert run_when_idle(lambda: os.sched_getscheduler(0)) == os.SCHED_IDLE
        assert os.sched_getscheduler(0) == before
