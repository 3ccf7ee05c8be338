"""Job events: stored first, then sent to the followers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from smolorad.domain import TERMINAL, Checkpoint, EventBody, Job, JobError, JobEvent, JobState, Note, StateChange
from smolorad.store.jobs import JobStore


class Events:
    """Every event and state change of a job passes here, so that no follower misses one."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._waits: dict[str, str] = {}

    async def append(self, job_id: str, body: EventBody) -> JobEvent:
        """Stores an event of a job, then wakes its followers."""
        event = await self._store.append(job_id, body)
        self._notify(job_id)
        return event

    async def move(
        self,
        job_id: str,
        to: JobState,
        why: str = "",
        *,
        error: JobError | None = None,
        result: str = "",
        expected: JobState | None = None,
    ) -> Job:
        """Moves a job to its next state, with the event of it.

        Raises BadState where the table of moves forbids it, or where the job is not in the state that was expected.
        """
        job, _ = await self._store.move(job_id, to, why, error=error, result=result, expected=expected)
        self._notify(job_id)
        return job

    def set_wait(self, job_id: str, why: str) -> None:
        """Sets why a job waits; an empty reason ends the wait. Kept in memory: a full disk stores no event."""
        if why == self.wait_of(job_id):
            return
        if why:
            self._waits[job_id] = why
        else:
            del self._waits[job_id]
        self._notify(job_id)

    def wait_of(self, job_id: str) -> str:
        """Why a job waits; empty where it does not, or where it is queued."""
        return self._waits.get(job_id, "")

    async def follow(self, job_id: str, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """The job's events after a number, past and future, none lost and none repeated; ends when the job has ended.

        A note that cannot be stored repeats the last number. Raises NotFound.
        """
        stored, announced = asyncio.Event(), ""
        self._followers.setdefault(job_id, set()).add(stored)
        try:
            while True:
                stored.clear()  # before reading: an event stored from here on sets it again
                job = await self._store.get(job_id)  # before the events: a job that has ended has all of them by then
                while found := await self._store.events(job_id, after):
                    for event in found:
                        yield event
                    after = found[-1].sequence
                if job.state in TERMINAL:
                    return
                if (why := self.wait_of(job_id)) and why != announced:
                    yield JobEvent(job_id, after, datetime.now(UTC), Note(f"{why[0].upper()}{why[1:]}."))
                announced = why
                await stored.wait()
        finally:
            self._followers[job_id].discard(stored)
            if not self._followers[job_id]:
                del self._followers[job_id]

    async def failed_starts(self, job_id: str) -> int:
        """How often the job was started since its newest checkpoint, or since it was resumed."""
        starts, after = 0, 0
        while found := await self._store.events(job_id, after):
            for event in found:
                starts = _counted(starts, event.body)
            after = found[-1].sequence
        return starts

    def _notify(self, job_id: str) -> None:
        for stored in self._followers.get(job_id, ()):
            stored.set()


def _counted(starts: int, body: EventBody) -> int:
    match body:
        case StateChange(state=JobState.RUNNING):
            return starts + 1
        case Checkpoint() | StateChange(state=JobState.FAILED | JobState.CANCELLED | JobState.PAUSED):
            return 0
    return starts
