"""The queue: order, idempotency, cancelling, resuming, and what follows from each way a run can end."""

from __future__ import annotations

import asyncio

import pytest

from smolorad.domain import Checkpoint, Job, JobKind, JobState, Note, PrepareSpec, TrainProgress
from smolorad.errors import (
    AlreadyExists,
    BadData,
    BadState,
    EngineUnavailable,
    NotFound,
    QueueFull,
    ShuttingDown,
    Violation,
)
from smolorad.jobs.job_runner import MAX_FAILED_STARTS, Emit
from smolorad.paths import Home
from smolorad.store.database import Database
from tests.unit.jobs.conftest import Desk, desk_over

Q, R, INT, S = JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED, JobState.SUCCEEDED
F, C, P = JobState.FAILED, JobState.CANCELLED, JobState.PAUSED
DIED = EngineUnavailable("The engine died.")


async def test_a_job_runs_and_its_result_is_told(desk: Desk) -> None:
    job = await desk.train_job("support")
    ended = await desk.ended(job.id)
    assert (ended.state, ended.result, ended.attempts) == (S, "support@1", 1)
    assert await desk.states(job.id) == [Q, R, S]
    assert not desk.home.job(job.id).root.exists()


async def test_a_lane_is_first_come_first_served_and_lanes_do_not_wait_for_each_other(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.train.script = [[gate]]
    first = await desk.train_job("one")
    others = [await desk.train_job(name) for name in ("two", "three")]
    await desk.train.running.wait()
    assert [desk.queue.position(job.id) for job in others] == [0, 1]
    assert (desk.queue.waiting, desk.queue.on_engine) == (2, first.id)
    merge = await desk.merge_job()
    assert (await desk.ended(merge.id)).state is S
    gate.set()
    for job in (first, *others):
        await desk.ended(job.id)
    assert desk.train.published == ["one", "two", "three"]


async def test_the_same_request_id_never_starts_work_twice(desk: Desk) -> None:
    first = await desk.train_job("a", "once")
    assert (await desk.train_job("a", "once")).id == first.id
    await desk.ended(first.id)
    assert (await desk.train_job("a", "once")).id == first.id
    assert desk.train.started == [first.id]
    with pytest.raises(AlreadyExists, match="another request"):
        await desk.train_job("b", "once")


async def test_a_full_queue_refuses_but_still_knows_its_requests(database: Database, job_home: Home) -> None:
    desk = desk_over(database, job_home, max_queue=1)
    await desk.queue.start()
    gate = asyncio.Event()
    desk.train.script = [[gate]]
    await desk.train_job("runs")
    await desk.train.running.wait()
    waits = await desk.train_job("waits", "once")
    with pytest.raises(QueueFull, match="SMOLORA_MAX_QUEUE"):
        await desk.train_job("too many")
    assert (await desk.train_job("waits", "once")).id == waits.id
    gate.set()
    assert (await desk.ended(waits.id)).state is S
    await desk.queue.close()


async def test_a_waiting_job_is_cancelled_at_once(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.train.script = [[gate]]
    first, second = await desk.train_job("one"), await desk.train_job("two")
    await desk.train.running.wait()
    assert (await desk.queue.cancel(second.id)).state is C
    gate.set()
    await desk.ended(first.id)
    assert desk.train.started == [first.id]
    assert (await desk.queue.cancel(second.id)).state is C


async def test_a_running_job_is_cancelled_and_can_be_resumed_with_its_checkpoints(desk: Desk) -> None:
    desk.train.script = [[asyncio.Event()]]
    job = await desk.train_job()
    await desk.train.running.wait()
    checkpoint = desk.home.job(job.id).checkpoints / "5"
    checkpoint.mkdir(parents=True)
    await desk.queue.cancel(job.id)
    assert (await desk.ended(job.id)).state is C
    assert checkpoint.is_dir()
    await desk.queue.resume(job.id)
    assert (await desk.ended(job.id)).state is S
    assert await desk.states(job.id) == [Q, R, C, Q, R, S]
    with pytest.raises(BadState, match="nothing to resume"):
        await desk.queue.resume(job.id)


async def test_a_failed_job_says_why_and_which_lines(desk: Desk) -> None:
    desk.train.script = [
        [BadData("Two rows are malformed.", [Violation("a.jsonl:3", "is no JSON"), Violation("a.jsonl:9", "no text")])]
    ]
    job = await desk.ended((await desk.train_job()).id)
    assert job.error is not None
    assert (job.state, job.error.reason, job.error.message) == (F, "BAD_DATA", "Two rows are malformed.")
    assert [v.field for v in job.error.violations] == ["a.jsonl:3", "a.jsonl:9"]
    notes = [event.body.text for event in await desk.store.events(job.id) if isinstance(event.body, Note)]
    assert notes == ["a.jsonl:3: is no JSON", "a.jsonl:9: no text"]


async def test_an_unexpected_error_fails_the_job_and_not_the_lane(desk: Desk) -> None:
    desk.train.script = [[ValueError("a bug")], []]
    one, two = await desk.train_job("one"), await desk.train_job("two")
    failed = await desk.ended(one.id)
    assert failed.error is not None
    assert (failed.error.reason, "a bug" in failed.error.message) == ("INTERNAL", False)
    assert (await desk.ended(two.id)).state is S


async def test_a_job_whose_process_died_goes_on_before_the_others(desk: Desk) -> None:
    desk.train.script = [[Checkpoint(5), DIED]]
    one, two = await desk.train_job("one"), await desk.train_job("two")
    assert (await desk.ended(one.id)).state is S
    await desk.ended(two.id)
    assert await desk.states(one.id) == [Q, R, INT, Q, R, S]
    assert desk.train.started == [one.id, one.id, two.id]


async def test_a_job_that_gets_nowhere_ends_and_may_be_resumed(desk: Desk) -> None:
    desk.train.script = [[DIED]] * MAX_FAILED_STARTS
    job = await desk.ended((await desk.train_job()).id)
    assert (job.state, job.attempts) == (F, MAX_FAILED_STARTS)
    assert job.error is not None
    assert "died 3 times in a row" in job.error.message
    desk.train.script = [[DIED]] * (MAX_FAILED_STARTS - 1)
    await desk.queue.resume(job.id)
    assert (await desk.ended(job.id)).state is S


async def test_checkpoints_begin_the_count_anew(desk: Desk) -> None:
    desk.train.script = [[DIED], [DIED], [Checkpoint(5), DIED], [DIED], [DIED, TrainProgress(6, 10)], [Checkpoint(10)]]
    job = await desk.ended((await desk.train_job()).id)
    assert (job.state, job.attempts) == (S, 6)


async def test_what_was_published_before_a_crash_is_not_made_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Made:
        ref = "support@7"
        name = "support"

    async def made_by(job_id: str) -> Made:
        return Made()

    monkeypatch.setattr(desk.library, "made_by", made_by)
    job = await desk.ended((await desk.train_job()).id)
    assert (job.state, job.result, desk.train.started) == (S, "support@7", [])


async def test_an_ending_daemon_interrupts_and_the_next_one_goes_on(database: Database, job_home: Home) -> None:
    desk = desk_over(database, job_home)
    await desk.queue.start()
    desk.train.script, desk.merge.script = [[asyncio.Event()]], [[ShuttingDown("The daemon is shutting down.")]]
    runs, waits, merges = await desk.train_job("runs"), await desk.train_job("waits"), await desk.merge_job()
    await desk.train.running.wait()
    await desk.merge.running.wait()
    await desk.queue.close()
    assert [(await desk.store.get(job.id)).state for job in (runs, waits, merges)] == [INT, Q, INT]
    with pytest.raises(ShuttingDown):
        await desk.train_job("late")

    again = desk_over(database, job_home)
    await again.queue.start()
    for job in (runs, waits, merges):
        assert (await again.ended(job.id)).state is S
    assert again.train.started == [runs.id, waits.id]
    await again.queue.close()


async def test_a_killed_daemons_jobs_go_on_and_its_leftovers_are_swept(database: Database, job_home: Home) -> None:
    dead = desk_over(database, job_home)
    job = await dead.train_job()
    await dead.events.move(job.id, R)  # and then the power went
    upload = await dead.store.create(JobKind.PREPARE, "d", PrepareSpec(name="d", upload_id="0" * 16))
    folders = job_home.job(job.id)
    for folder in (folders.output, folders.checkpoints / "5", job_home.uploads / ("0" * 16), job_home.uploads / ("1" * 16)):
        folder.mkdir(parents=True)
    (job_home.uploads / ".incoming-1").touch()
    await dead.events.move(upload[0].id, C)
    waiting, _ = await dead.store.create(JobKind.PREPARE, "d", PrepareSpec(name="d", upload_id="0" * 16))

    desk = desk_over(database, job_home)
    gate = asyncio.Event()
    desk.train.script = [[gate]]
    (job_home.uploads / ("2" * 16)).mkdir()  # comes after the socket was bound
    await desk.queue.start()
    await desk.train.running.wait()
    assert (folders.checkpoints / "5").is_dir()
    assert not folders.output.exists()
    assert sorted(p.name for p in job_home.uploads.iterdir()) == ["0" * 16, "2" * 16]
    gate.set()
    assert (await desk.ended(job.id)).state is S
    assert await desk.states(job.id) == [Q, R, INT, Q, R, S]
    await desk.ended(waiting.id)
    await desk.queue.close()


async def test_an_unknown_job_is_not_found(desk: Desk) -> None:
    for call in (desk.queue.cancel, desk.queue.resume):
        with pytest.raises(NotFound):
            await call("nosuch")


async def test_a_waiting_job_is_held_and_others_pass(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.train.script.append([gate])
    first = await desk.train_job("a")
    await desk.train.running.wait()
    held, last = await desk.train_job("b"), await desk.train_job("c")
    assert desk.queue.waiting_for(held.id) == f"job {first.id} runs"
    assert desk.queue.waiting_for(last.id) == f"job {first.id} runs, 1 waits before it"
    assert desk.queue.waiting_for(first.id) == ""
    reasons = [(await desk.store.events(job.id))[0].body for job in (first, held, last)]
    assert [getattr(body, "why", None) for body in reasons] == [
        "",
        f"job {first.id} runs",
        f"job {first.id} runs, 1 waits before it",
    ]
    assert (await desk.queue.pause(held.id)).state is JobState.PAUSED
    assert (await desk.queue.pause(held.id)).state is JobState.PAUSED
    assert desk.queue.waiting_for(last.id) == f"job {first.id} runs"
    gate.set()
    assert (await desk.ended(last.id)).state is JobState.SUCCEEDED
    assert (await desk.store.get(held.id)).state is JobState.PAUSED
    assert (await desk.queue.resume(held.id)).state is JobState.QUEUED
    assert (await desk.ended(held.id)).state is JobState.SUCCEEDED
    assert await desk.states(held.id) == ["queued", "paused", "queued", "running", "succeeded"]
    with pytest.raises(BadState, match="has ended"):
        await desk.queue.pause(held.id)


async def test_a_running_job_is_held_cancelled_or_resumed(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.merge.script += [[gate], [gate]]
    job = await desk.merge_job()
    await desk.merge.running.wait()
    desk.merge.running.clear()
    await desk.queue.pause(job.id)
    await _reached(desk, job.id, JobState.PAUSED)
    await desk.queue.resume(job.id)
    await desk.merge.running.wait()
    await desk.queue.pause(job.id)
    await _reached(desk, job.id, JobState.PAUSED)
    assert (await desk.queue.cancel(job.id)).state is JobState.CANCELLED


async def test_what_can_keep_its_work_ends_by_itself(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.train.script.append([gate, ShuttingDown("It has checkpointed.")])

    async def pause(job_id: str) -> bool:
        gate.set()
        return True

    desk.train.pause = pause  # type: ignore[attr-defined]
    job = await desk.train_job()
    await desk.train.running.wait()
    await desk.queue.pause(job.id)
    await _reached(desk, job.id, JobState.PAUSED)


@pytest.mark.parametrize(
    ("asked", "states"),
    [
        (["pause", "resume"], [Q, R, P, Q, R, S]),
        (["cancel", "resume"], [Q, R, C, Q, R, S]),
        (["pause", "resume", "cancel"], [Q, R, C]),
        (["cancel", "pause"], [Q, R, C]),
        (["pause", "cancel"], [Q, R, C]),
        (["cancel", "resume", "pause", "resume"], [Q, R, P, Q, R, S]),
    ],
)
async def test_of_what_is_asked_at_once_the_last_holds(desk: Desk, asked: list[str], states: list[JobState]) -> None:
    all_asked, work = asyncio.Event(), desk.train.work

    async def slow_to_end(job: Job, emit: Emit) -> str:
        try:
            return await work(job, emit)
        finally:
            await all_asked.wait()

    desk.train.work = slow_to_end  # type: ignore[method-assign]
    desk.train.script = [[asyncio.Event()]]
    job = await desk.train_job()
    await desk.train.running.wait()
    for what in asked:
        await getattr(desk.queue, what)(job.id)
    all_asked.set()
    await _reached(desk, job.id, states[-1])
    assert await desk.states(job.id) == states


async def test_a_resumed_job_goes_on_though_its_pause_takes_time(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.train.script = [[gate, ShuttingDown("It has checkpointed.")]]

    async def pause(job_id: str) -> bool:
        return True

    desk.train.pause = pause  # type: ignore[attr-defined]
    job = await desk.train_job()
    await desk.train.running.wait()
    await desk.queue.pause(job.id)
    await desk.queue.resume(job.id)
    gate.set()
    assert (await desk.ended(job.id)).state is S
    assert await desk.states(job.id) == [Q, R, P, Q, R, S]


async def test_a_job_whose_process_dies_before_its_pause_is_paused(desk: Desk) -> None:
    gate = asyncio.Event()
    desk.train.script = [[gate, DIED]]

    async def pause(job_id: str) -> bool:
        return True

    desk.train.pause = pause  # type: ignore[attr-defined]
    job = await desk.train_job()
    await desk.train.running.wait()
    await desk.queue.pause(job.id)
    gate.set()
    await _reached(desk, job.id, P)
    assert await desk.states(job.id) == [Q, R, INT, P]


async def test_a_held_job_stays_held_when_the_daemon_ends(database: Database, job_home: Home) -> None:
    desk = desk_over(database, job_home)
    job = await desk.train_job()
    await desk.queue.pause(job.id)
    again = desk_over(database, job_home)
    await again.queue.start()
    other = await again.train_job("b")
    assert (await again.ended(other.id)).state is JobState.SUCCEEDED
    assert (await again.store.get(job.id)).state is JobState.PAUSED
    await again.queue.close()


async def _reached(desk: Desk, job_id: str, state: JobState) -> None:
    """Returns once the job has reached a state."""
    async with asyncio.timeout(10):
        async for event in desk.events.follow(job_id):
            if getattr(event.body, "state", None) is state and (await desk.store.get(job_id)).state is state:
                return


@pytest.mark.parametrize(("asked", "ends"), [("cancel", C), ("pause", P)])
async def test_a_job_that_begins_to_run_as_it_is_ended_is_ended_by_its_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, asked: str, ends: JobState
) -> None:
    get, stale = desk.store.get, []
    desk.train.script = [[asyncio.Event()]]
    job = await desk.train_job()
    await desk.train.running.wait()

    async def as_it_was(job_id: str) -> Job:
        if stale:
            return await get(job_id)
        stale.append(job_id)
        return job  # queued, as it was read a moment ago

    monkeypatch.setattr(desk.store, "get", as_it_was)
    await getattr(desk.queue, asked)(job.id)
    await _reached(desk, job.id, ends)
    assert await desk.states(job.id) == [Q, R, ends]
    other = await desk.train_job("other")
    assert (await desk.ended(other.id)).state is S
