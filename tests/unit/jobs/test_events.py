"""Following a job: none lost, none repeated, and an end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smolorad.domain import JobKind, JobState, Note, StateChange, TrainSpec
from smolorad.errors import NotFound
from smolorad.jobs.events import Events
from tests.examples import examples
from tests.unit.jobs.conftest import Desk

ONCE_PER_EXAMPLE = settings(
    max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def job_of(desk: Desk) -> str:
    job, _ = await desk.store.create(JobKind.TRAIN, "a", TrainSpec(dataset="d@1", adapter="a"), "")
    return job.id


async def follow(events: Events, job_id: str, after: int = 0) -> list[int]:
    async with asyncio.timeout(10):
        return [event.sequence async for event in events.follow(job_id, after)]


@ONCE_PER_EXAMPLE
@given(notes=st.integers(0, 20), followers=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 25)), max_size=5))
async def test_each_follower_sees_each_event_after_its_number_once(
    desk: Desk, notes: int, followers: list[tuple[int, int]]
) -> None:
    job_id = await job_of(desk)
    events = desk.events
    tasks = []
    await events.move(job_id, JobState.RUNNING)
    for n in range(notes):
        tasks += [asyncio.create_task(follow(events, job_id, after)) for when, after in followers if when == n]
        await events.append(job_id, Note(str(n)))
    tasks += [asyncio.create_task(follow(events, job_id, after)) for when, after in followers if when >= notes]
    await events.move(job_id, JobState.SUCCEEDED)
    last = notes + 3
    wanted = [after for n in range(notes) for when, after in followers if when == n]
    wanted += [after for when, after in followers if when >= notes]
    for task, after in zip(tasks, wanted, strict=True):
        assert await task == list(range(after + 1, last + 1))


async def test_a_resumed_job_is_followed_past_its_earlier_end(desk: Desk) -> None:
    job_id = await job_of(desk)
    for state in (JobState.RUNNING, JobState.CANCELLED, JobState.QUEUED):
        await desk.events.move(job_id, state)
    follower = asyncio.create_task(follow(desk.events, job_id))
    await desk.events.move(job_id, JobState.RUNNING)
    await desk.events.move(job_id, JobState.SUCCEEDED)
    assert await follower == [1, 2, 3, 4, 5, 6]


async def test_more_events_than_one_read_holds_are_all_followed(desk: Desk) -> None:
    job_id = await job_of(desk)
    await desk.events.move(job_id, JobState.RUNNING)
    for n in range(1100):
        await desk.store.append(job_id, Note(str(n)))
    await desk.events.move(job_id, JobState.FAILED)
    assert await follow(desk.events, job_id) == list(range(1, 1104))


async def test_a_follower_that_goes_leaves_nothing(desk: Desk) -> None:
    job_id = await job_of(desk)
    async with contextlib.aclosing(desk.events.follow(job_id)) as follower:
        assert (await anext(follower)).body == StateChange(JobState.QUEUED)
    assert not desk.events._followers


async def test_an_unknown_job_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await follow(desk.events, "nosuch")
