"""A queue over a real database, with kinds whose work a test directs by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from smolorad.domain import Job, JobKind, JobState, MergeSpec, TrainSpec
from smolorad.jobs.events import Events
from smolorad.jobs.job_runner import Emit, JobRunner
from smolorad.jobs.queue import Queue
from smolorad.jobs.units import Units
from smolorad.paths import Home
from smolorad.store.database import Database
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library


@dataclass
class ScriptedKind:
    """Work that does what the test put into `script`: an event to emit, an exception to raise, or a gate to wait for."""

    script: list[list[Any]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    running: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self, job: Job, emit: Emit) -> str:
        """One run: the next script, or nothing to do."""
        self.started.append(job.id)
        self.running.set()
        for step in self.script.pop(0) if self.script else []:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                await emit(step)
        return job.target

    async def publish(self, job: Job, made: str) -> str:
        """Remembers what was made."""
        self.published.append(made)
        return f"{made}@1"


@dataclass
class Desk:
    """The queue and what stands behind it."""

    home: Home
    store: JobStore
    library: Library
    events: Events
    queue: Queue
    train: ScriptedKind
    merge: ScriptedKind

    async def train_job(self, name: str = "a", request_id: str = "") -> Job:
        """A training in the queue."""
        return await self.queue.submit(JobKind.TRAIN, name, TrainSpec(dataset="d@1", adapter=name, model="m"), request_id)

    async def merge_job(self, name: str = "m") -> Job:
        """A merge in the queue."""
        return await self.queue.submit(JobKind.MERGE, name, MergeSpec(adapter="a@1", name=name))

    async def ended(self, job_id: str) -> Job:
        """The job, once it has ended."""
        async with asyncio.timeout(10):
            async for _ in self.events.follow(job_id):
                pass
        return await self.store.get(job_id)

    async def states(self, job_id: str) -> list[JobState]:
        """The states it went through."""
        return [event.body.state for event in await self.store.events(job_id) if hasattr(event.body, "state")]


def desk_over(database: Database, home: Home, max_queue: int = 512) -> Desk:
    """A desk that has not started yet."""
    store, library, train, merge = JobStore(database), Library(database), ScriptedKind(), ScriptedKind()
    events = Events(store)
    runner = JobRunner(home, store, library, events, {JobKind.TRAIN: train, JobKind.MERGE: merge})
    return Desk(home, store, library, events, Queue(home, store, events, runner, Units(), max_queue), train, merge)


@pytest.fixture
def job_home(tmp_path: Path) -> Home:
    """A state folder."""
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
async def database(job_home: Home) -> AsyncIterator[Database]:
    """An empty database."""
    async with Database.open(job_home.database) as database:
        yield database


@pytest.fixture
async def desk(database: Database, job_home: Home) -> AsyncIterator[Desk]:
    """A desk whose queue runs."""
    desk = desk_over(database, job_home)
    await desk.queue.start()
    yield desk
    await desk.queue.close()
