"""Jobs and events: the moves, the numbers, the ids."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from smolorad.domain import (
    MOVES,
    TERMINAL,
    Checkpoint,
    Evaluation,
    EventBody,
    ImportSpec,
    JobError,
    JobKind,
    JobState,
    LoraSettings,
    MergeSpec,
    Note,
    PhaseProgress,
    PrepareSpec,
    StateChange,
    TrainerSettings,
    TrainProgress,
    TrainSpec,
)
from smolorad.errors import AlreadyExists, BadState, Damaged, NotFound
from smolorad.store.database import Database
from smolorad.store.jobs import JobStore

SPEC = TrainSpec(
    "verses@2", "style", "starter", LoraSettings(r=4, rank_pattern={"q_proj": 2}), TrainerSettings(num_train_epochs=1.5)
)
# Moves that lead to each state, for a job that is queued.
ROADS = {
    JobState.QUEUED: (),
    JobState.RUNNING: (JobState.RUNNING,),
    JobState.INTERRUPTED: (JobState.RUNNING, JobState.INTERRUPTED),
    JobState.SUCCEEDED: (JobState.RUNNING, JobState.SUCCEEDED),
    JobState.FAILED: (JobState.RUNNING, JobState.FAILED),
    JobState.CANCELLED: (JobState.CANCELLED,),
    JobState.PAUSED: (JobState.PAUSED,),
}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (JobKind.TRAIN, SPEC),
        (JobKind.PREPARE, PrepareSpec("verses", upload_id="abc", validation=0.1)),
        (JobKind.MERGE, MergeSpec("style@1", "merged")),
        (JobKind.IMPORT, ImportSpec("starter", "mine")),
    ],
)
async def test_a_job_comes_back_as_it_was_written(tmp_path: Path, kind: JobKind, spec: TrainSpec) -> None:
    async with Database.open(tmp_path / "a.db") as database:
        job, created = await JobStore(database).create(kind, "target", spec, "id-1")
        assert created
        await JobStore(database).move(job.id, JobState.RUNNING)
        await JobStore(database).move(job.id, JobState.FAILED, error=JobError("NO_SPACE", "Make room."))
    async with Database.open(tmp_path / "a.db") as database:
        found = await JobStore(database).get(job.id)
    assert found.spec == spec
    assert (found.kind, found.target, found.request_id) == (kind, "target", "id-1")
    assert (found.state, found.error) == (JobState.FAILED, JobError("NO_SPACE", "Make room."))
    assert found.start_time is not None
    assert found.end_time is not None
    assert found.create_time <= found.start_time <= found.end_time


@pytest.mark.parametrize(("state", "to"), list(itertools.product(JobState, JobState)))
async def test_only_the_tables_moves_are_made(jobs: JobStore, state: JobState, to: JobState) -> None:
    job, _ = await jobs.create(JobKind.TRAIN, "style", SPEC)
    for step in ROADS[state]:
        job, _ = await jobs.move(job.id, step)
    if to in MOVES[state]:
        moved, event = await jobs.move(job.id, to, "because")
        assert moved == await jobs.get(job.id)
        assert event.body == StateChange(to, "because")
        assert event.sequence == moved.last_sequence
        assert (moved.end_time is not None) == (to in TERMINAL)
    else:
        with pytest.raises(BadState, match=job.id):
            await jobs.move(job.id, to)
        assert await jobs.get(job.id) == job


async def test_each_start_counts_an_attempt_and_keeps_the_first_time(jobs: JobStore) -> None:
    job, _ = await jobs.create(JobKind.TRAIN, "style", SPEC)
    first, _ = await jobs.move(job.id, JobState.RUNNING)
    await jobs.move(job.id, JobState.INTERRUPTED)
    await jobs.move(job.id, JobState.QUEUED)
    again, _ = await jobs.move(job.id, JobState.RUNNING)
    assert (first.attempts, again.attempts) == (1, 2)
    assert again.start_time == first.start_time


async def test_events_are_numbered_without_gaps_under_concurrency(jobs: JobStore) -> None:
    one, _ = await jobs.create(JobKind.TRAIN, "one", SPEC)
    two, _ = await jobs.create(JobKind.TRAIN, "two", SPEC)
    await asyncio.gather(*(jobs.append(job.id, Note(f"{i}")) for i in range(50) for job in (one, two)))
    for job in (one, two):
        events = await jobs.events(job.id)
        assert [event.sequence for event in events] == list(range(1, 52))
        assert {event.body.text for event in events[1:] if isinstance(event.body, Note)} == {str(i) for i in range(50)}
        assert (await jobs.get(job.id)).last_sequence == 51


async def test_every_kind_of_event_comes_back(jobs: JobStore) -> None:
    job, _ = await jobs.create(JobKind.TRAIN, "style", SPEC)
    bodies: list[EventBody] = [
        TrainProgress(
            step=3,
            max_steps=10,
            epoch=0.5,
            loss=1.25,
            learning_rate=2e-4,
            grad_norm=0.7,
            tokens_per_second=123.4,
            eta_s=5.6,
            tokens=789,
        ),
        Evaluation(3, 1.5, 4.48, 12, 0.25),
        Checkpoint(3),
        PhaseProgress("read", 1, 2, "rows"),
        Note("worth telling"),
        StateChange(JobState.RUNNING, "why"),
    ]
    for body in bodies:
        await jobs.append(job.id, body)
    assert [event.body for event in await jobs.events(job.id, after=1)] == bodies
    assert [event.sequence for event in await jobs.events(job.id, after=3, limit=2)] == [4, 5]
    assert (await jobs.get(job.id)).progress == bodies[0]


async def test_a_request_id_starts_work_once(jobs: JobStore) -> None:
    made = await asyncio.gather(*(jobs.create(JobKind.TRAIN, "style", SPEC, "same") for _ in range(5)))
    assert len({job.id for job, _ in made}) == 1
    assert [created for _, created in made].count(True) == 1
    assert (await jobs.by_request("same")) == made[0][0]
    with pytest.raises(AlreadyExists, match="another request"):
        await jobs.create(JobKind.TRAIN, "other", SPEC, "same")
    assert (await jobs.create(JobKind.TRAIN, "style", SPEC))[1]
    assert (await jobs.create(JobKind.TRAIN, "style", SPEC))[1], "no id is no protection"
    assert await jobs.by_request("") is None


async def test_lists_are_in_the_order_of_creation(jobs: JobStore) -> None:
    made = [(await jobs.create(JobKind.TRAIN, f"t{i}", SPEC))[0] for i in range(5)]
    await jobs.move(made[1].id, JobState.RUNNING)
    await jobs.move(made[2].id, JobState.CANCELLED)
    newest = await jobs.newest(2)
    assert [job.target for job in newest] == ["t4", "t3"]
    assert [job.target for job in await jobs.newest(10, newest[-1].id)] == ["t2", "t1", "t0"]
    assert [job.target for job in await jobs.unfinished()] == ["t0", "t1", "t3", "t4"]


async def test_an_unknown_job_is_not_found(jobs: JobStore) -> None:
    for call in (jobs.get("nobody"), jobs.move("nobody", JobState.RUNNING), jobs.append("nobody", Note("?"))):
        with pytest.raises(NotFound, match="smolora-client jobs"):
            await call


async def test_a_row_that_cannot_be_read_is_damaged(database: Database, jobs: JobStore) -> None:
    job, _ = await jobs.create(JobKind.TRAIN, "style", SPEC)
    await database.run(lambda db: db.execute("UPDATE jobs SET spec = '{'"))
    with pytest.raises(Damaged, match="TrainSpec"):
        await jobs.get(job.id)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("state", "asleep"),
        ("kind", "dream"),
        ("spec", "{"),
        ("spec", "[]"),
        ("create_time", "yesterday"),
        ("error", "{"),
        ("progress", "[" * 50_000),
        ("attempts", "many"),
        ("target", b"\xff"),
    ],
)
async def test_one_row_that_cannot_be_read_hides_no_other_job(
    database: Database, jobs: JobStore, column: str, value: object
) -> None:
    ids = [(await jobs.create(JobKind.TRAIN, "t", SPEC))[0].id for _ in range(3)]
    await database.run(lambda db: db.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (value, ids[1])))
    assert {ids[0], ids[2]} <= {job.id for job in await jobs.newest(9)}
    assert {ids[0], ids[2]} <= {job.id for job in await jobs.unfinished()}
    assert [job.id for job in await jobs.newest(2, ids[2])][-1] == ids[0]
    if column not in ("attempts", "target"):  # SQLite keeps any value in any column, and these are shown as they are
        with pytest.raises(Damaged, match=f"job {ids[1]} .* start its work again"):
            await jobs.get(ids[1])


@pytest.mark.parametrize(("column", "value"), [("kind", "dream"), ("body", "{"), ("time", "noon")])
async def test_an_event_that_cannot_be_read_keeps_its_number(
    database: Database, jobs: JobStore, column: str, value: str
) -> None:
    job, _ = await jobs.create(JobKind.TRAIN, "t", SPEC)
    await jobs.append(job.id, Note("second"))
    await jobs.append(job.id, Note("third"))
    await database.run(lambda db: db.execute(f"UPDATE events SET {column} = ? WHERE sequence = 2", (value,)))
    found = await jobs.events(job.id)
    assert [event.sequence for event in found] == [1, 2, 3]
    assert found[1].body == Note("An event of this job cannot be read any more.")
    assert found[2].body == Note("third")


TEXT_COLUMNS = ("id", "kind", "state", "target", "spec", "request_id", "create_time", "result")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *itertools.product(TEXT_COLUMNS, [b"\xff", b"train"]),
        *itertools.product(("attempts", "last_sequence"), [b"\xff", "many", -1.5, -3]),
        ("attempts", 2**40),
        ("start_time", b"\xff"),
        ("error", b"{}"),
    ],
)
async def test_a_value_of_another_type_hides_its_own_job_alone(
    database: Database, jobs: JobStore, column: str, value: object
) -> None:
    """SQLite keeps any type in any column."""
    await jobs.create(JobKind.TRAIN, "one", SPEC)
    second, _ = await jobs.create(JobKind.TRAIN, "two", SPEC)
    await database.run(lambda db: db.execute("DELETE FROM events"))
    await database.run(lambda db: db.execute(f"UPDATE jobs SET {column} = ? WHERE number = 1", (value,)))
    assert [job.id for job in await jobs.newest(10)] == [second.id]
    assert [job.id for job in await jobs.unfinished()] == [second.id]


@pytest.mark.parametrize("value", [b"\xff", "many", -1.5, 0, -7])
async def test_a_damaged_count_of_events_is_counted_anew(database: Database, jobs: JobStore, value: object) -> None:
    job, _ = await jobs.create(JobKind.TRAIN, "one", SPEC)
    await jobs.append(job.id, Note("first"))
    await database.run(lambda db: db.execute("UPDATE jobs SET last_sequence = ?", (value,)))
    event = await jobs.append(job.id, Note("second"))
    assert [one.sequence for one in await jobs.events(job.id)] == [1, 2, 3]
    assert (await jobs.get(job.id)).last_sequence == event.sequence == 3


@pytest.mark.parametrize("value", [b"\xff", "many", -1.5, b""])
async def test_an_event_without_a_number_is_passed_over(database: Database, jobs: JobStore, value: object) -> None:
    job, _ = await jobs.create(JobKind.TRAIN, "one", SPEC)
    for text in ("second", "third"):
        await jobs.append(job.id, Note(text))
    await database.run(lambda db: db.execute("UPDATE events SET sequence = ? WHERE sequence = 2", (value,)))
    assert [one.sequence for one in await jobs.events(job.id)] == [1, 3]
    assert (await jobs.append(job.id, Note("fourth"))).sequence == 4
