"""A full disk at every move of a job: it waits, says so while it lasts, and continues; what is asked of it meanwhile counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from smolorad.domain import Checkpoint, Job, JobState, Note, StateChange
from smolorad.errors import BadData, EngineUnavailable, NoSpace, ShuttingDown, Violation
from smolorad.jobs import run
from smolorad.jobs.run import FULL
from smolorad.paths import Home
from smolorad.store.database import CannotWrite, Database
from tests.full_disk import SAID, FullDisk
from tests.unit.jobs.conftest import Desk, desk_over

Q, R, INT, S = JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED, JobState.SUCCEEDED
F, C, P = JobState.FAILED, JobState.CANCELLED, JobState.PAUSED
DIED = EngineUnavailable("The engine died.")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    """The disk below the desk's database, with room."""
    return FullDisk().patch(monkeypatch)


@pytest.fixture
async def desk(database: Database, job_home: Home, disk: FullDisk) -> AsyncIterator[Desk]:
    """A desk on that disk, whose queue runs."""
    desk = desk_over(database, job_home)
    await desk.queue.start()
    yield desk
    disk.full = False
    await desk.queue.close()


async def said(desk: Desk, job_id: str) -> str:
    """The first note that a watcher of the job sees."""
    async with asyncio.timeout(10):
        async for event in desk.events.follow(job_id):
            if isinstance(event.body, Note):
                return event.body.text
    raise AssertionError("the job ended without a note")


def full_at(move: str) -> list[list[object]]:
    """Scripts of a training whose next write to the disk is one of its moves."""
    match move:
        case "event":
            return [[Checkpoint(1), Checkpoint(2)]]
        case "succeeded":
            return [[]]
        case "failed":
            return [[BadData("A row is malformed.", [Violation("a:1", "no text")])]]
        case "interrupted":
            return [[DIED]]
        case "cancelled" | "paused":
            return [[asyncio.Event()]]
    raise AssertionError(move)


@pytest.mark.parametrize(
    ("move", "states"),
    [
        ("event", [Q, R, S]),
        ("succeeded", [Q, R, S]),
        ("failed", [Q, R, F]),
        ("interrupted", [Q, R, INT, Q, R, S]),
        ("cancelled", [Q, R, C]),
        ("paused", [Q, R, P]),
    ],
)
async def test_a_job_waits_at_every_move_and_says_so(desk: Desk, disk: FullDisk, move: str, states: list[JobState]) -> None:
    work = desk.train.work

    async def fill(job: Job, emit: Callable[..., object]) -> str:
        if not desk.train.started:
            disk.full = True
        return await work(job, emit)  # type: ignore[arg-type]

    desk.train.work = fill  # type: ignore[method-assign]
    desk.train.script = full_at(move)  # type: ignore[assignment]
    job = await desk.train_job()
    await desk.train.running.wait()
    if move in ("cancelled", "paused"):
        await (desk.queue.cancel if move == "cancelled" else desk.queue.pause)(job.id)
    assert await said(desk, job.id) == SAID
    assert desk.events.wait_of(job.id) == FULL
    assert (await desk.store.get(job.id)).state is R
    disk.full = False
    if move == "paused":
        await reached(desk, job.id, P)
    else:
        await desk.ended(job.id)
    assert await desk.states(job.id) == states
    assert desk.events.wait_of(job.id) == ""
    events = await desk.store.events(job.id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert SAID not in [getattr(event.body, "text", "") for event in events]


@pytest.mark.parametrize("message", ["database or disk is full", "disk I/O error", "database is locked"])
async def test_a_job_whose_start_cannot_be_written_keeps_its_place(desk: Desk, disk: FullDisk, message: str) -> None:
    gate = asyncio.Event()
    desk.train.script = [[gate]]
    runs, first, second = [await desk.train_job(name) for name in ("runs", "first", "second")]
    await desk.train.running.wait()
    disk.full, disk.message, disk.writes_left = True, message, 1
    gate.set()
    await waiting(desk, first.id)
    assert (await desk.store.get(runs.id)).state is S
    assert (await desk.store.get(first.id)).state is Q
    note = await said(desk, first.id)
    assert note == SAID if message == "database or disk is full" else "database cannot be written" in note
    disk.full = False
    for job in (first, second):
        assert (await desk.ended(job.id)).state is S
    assert desk.train.started == [runs.id, first.id, second.id]


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        (["cancel"], [Q, C]),
        (["pause"], [Q, P]),
        (["resume"], [Q, R, S]),
        (["cancel", "resume"], [Q, R, S]),
        (["pause", "cancel"], [Q, C]),
        (["cancel", "pause"], [Q, C]),
    ],
)
async def test_what_is_asked_of_a_job_that_waits_to_start_counts(
    desk: Desk, disk: FullDisk, asked: list[str], ends: list[JobState]
) -> None:
    job = await waiting_to_start(desk, disk)
    for what in asked:
        assert (await getattr(desk.queue, what)(job.id)).state is Q
    disk.full = False
    await reached(desk, job.id, ends[-1])
    states = await desk.states(job.id)
    assert states in (ends, [Q, C, Q, R, S])  # cancelled as it was resumed
    assert states[-1] is ends[-1]
    other = await desk.train_job("other")
    assert (await desk.ended(other.id)).state is S


async def test_one_that_waits_behind_another_is_not_cancelled_in_half(desk: Desk, disk: FullDisk) -> None:
    await waiting_to_start(desk, disk)
    disk.full = False
    gate = asyncio.Event()
    desk.merge.script = [[gate]]
    await desk.merge_job("runs")
    behind = await desk.merge_job("behind")
    disk.full = True
    with pytest.raises(NoSpace, match="nothing was changed"):
        await desk.queue.cancel(behind.id)
    disk.full = False
    gate.set()
    assert (await desk.ended(behind.id)).state is S


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), NoSpace("The disk is full; free some space.")])
async def test_work_begins_again_when_there_is_more_room(
    desk: Desk, error: Exception, monkeypatch: pytest.MonkeyPatch, job_home: Home
) -> None:
    free = [10 * 2**20]
    monkeypatch.setattr(run, "FIRST_RETRY_S", 1000.0)
    monkeypatch.setattr(run, "_free_bytes", lambda home: free[0])
    desk.train.script = [[Checkpoint(1), error], [Checkpoint(2)]]
    job = await desk.train_job()
    await waiting(desk, job.id)
    folders = job_home.job(job.id)
    assert not folders.stage.exists(), "half of something takes no room while it waits"
    assert (await said(desk, job.id), desk.train.started) == (SAID, [job.id])
    free[0] += 2**16  # a little more is no reason to do it all again
    assert desk.train.started == [job.id]
    free[0] += 2**21
    assert (await desk.ended(job.id)).state is S
    assert await desk.states(job.id) == [Q, R, S]
    assert desk.train.started == [job.id, job.id]


async def test_work_is_tried_again_though_the_room_came_before_it_was_measured(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_free_bytes", lambda home: 10 * 2**20)
    monkeypatch.setattr(run, "FIRST_RETRY_S", 0.001)
    desk.train.script = [[NoSpace("The disk is full.")], [NoSpace("The disk is full.")]]
    job = await desk.train_job()
    assert (await desk.ended(job.id)).state is S
    assert len(desk.train.started) == 3


@pytest.mark.parametrize(("what", "states"), [("cancel", [Q, R, C]), ("pause", [Q, R, P]), ("resume", [Q, R, S])])
async def test_what_is_asked_of_work_that_waits_for_room_counts_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, what: str, states: list[JobState]
) -> None:
    monkeypatch.setattr(run, "_free_bytes", lambda home: 0)
    monkeypatch.setattr(run, "LOOK_S", 1000.0)
    desk.train.script = [[NoSpace("The disk is full.")]]
    job = await desk.train_job()
    await waiting(desk, job.id)
    await getattr(desk.queue, what)(job.id)
    await reached(desk, job.id, states[-1])
    assert await desk.states(job.id) == states


async def test_what_is_made_is_published_once_there_is_room(desk: Desk, disk: FullDisk) -> None:
    publish, failures = desk.train.publish, [OSError(28, "No space left on device"), NoSpace("The disk is full.")]

    async def fails(job: Job, made: str) -> str:
        if failures:
            raise failures.pop()
        return await publish(job, made)

    desk.train.publish = fails  # type: ignore[method-assign]
    job = await desk.train_job()
    assert (await desk.ended(job.id)).state is S
    assert (desk.train.started, desk.train.published) == ([job.id], ["a"])


@pytest.mark.parametrize("refusal", [NoSpace("The disk is full."), CannotWrite("locked"), OSError(28, "No space left")])
@pytest.mark.parametrize(("what", "states"), [("cancel", [Q, R, C]), ("pause", [Q, R, P]), ("resume", [Q, R, S])])
async def test_what_is_asked_of_a_job_that_waits_to_publish_counts(
    desk: Desk, what: str, states: list[JobState], refusal: Exception
) -> None:
    publish, refusals = desk.train.publish, [refusal]

    async def refused(job: Job, made: str) -> str:
        if refusals or what != "resume":
            refusals.clear()
            raise refusal
        return await publish(job, made)

    desk.train.publish = refused  # type: ignore[method-assign]
    job = await desk.train_job()
    await waiting(desk, job.id)
    await getattr(desk.queue, what)(job.id)
    await reached(desk, job.id, states[-1])
    assert await desk.states(job.id) == states


async def test_a_daemon_ends_on_a_full_disk_and_the_next_one_takes_the_jobs_up(
    desk: Desk, disk: FullDisk, database: Database, job_home: Home
) -> None:
    desk.train.script, desk.merge.script = [[asyncio.Event()]], [[ShuttingDown("The daemon is shutting down.")]]
    runs, waits = await desk.train_job("runs"), await desk.train_job("waits")
    await desk.train.running.wait()
    disk.full = True
    async with asyncio.timeout(10):
        await desk.queue.close()
    assert [(await desk.store.get(job.id)).state for job in (runs, waits)] == [R, Q]

    again = desk_over(database, job_home)
    await again.queue.start()  # on the full disk
    await waiting(again, runs.id)
    disk.full = False
    for job in (runs, waits):
        assert (await again.ended(job.id)).state is S
    assert await again.states(runs.id) == [Q, R, INT, Q, R, S]
    assert again.train.started == [runs.id, waits.id]
    await again.queue.close()


async def test_a_job_that_fell_out_of_the_line_is_put_back_by_resume(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [1]
    begun = desk.queue._runner._begin

    async def bug(job_id: str, run_: run.Run) -> Job:
        if failures:
            failures.pop()
            raise ValueError("a bug")
        return await begun(job_id, run_)

    monkeypatch.setattr(desk.queue._runner, "_begin", bug)
    job, other = await desk.train_job(), await desk.train_job("other")
    assert (await desk.ended(other.id)).state is S
    assert "until it is resumed" in caplog.text
    assert (await desk.queue.resume(job.id)).state is Q
    assert (await desk.ended(job.id)).state is S


async def waiting_to_start(desk: Desk, disk: FullDisk) -> Job:
    """A training that meets a full disk when its turn comes."""
    gate = asyncio.Event()
    desk.train.script = [[gate]]
    await desk.train_job("runs")
    await desk.train.running.wait()
    job = await desk.train_job("waits")
    disk.full, disk.writes_left = True, 1
    gate.set()
    await waiting(desk, job.id)
    return job


async def waiting(desk: Desk, job_id: str) -> None:
    """Returns once the job says that it waits."""
    async with asyncio.timeout(10):
        async for event in desk.events.follow(job_id):
            if desk.events.wait_of(job_id) and isinstance(event.body, Note | StateChange):
                return


async def reached(desk: Desk, job_id: str, state: JobState) -> None:
    """Returns once the job has reached a state."""
    async with asyncio.timeout(10):
        after = 0
        while (await desk.store.get(job_id)).state is not state:
            async for event in desk.events.follow(job_id, after):
                after = event.sequence
                if getattr(event.body, "state", None) is state:
                    break
