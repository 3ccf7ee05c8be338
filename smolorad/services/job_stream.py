"""Jobs as the services show them: one job, the stream of its events, and its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from smolora.v1 import jobs_pb2
from smolorad.domain import TERMINAL, Job, JobEvent, JobState, TrainSpec
from smolorad.errors import BadState, Cancelled, by_reason
from smolorad.jobs.events import Events
from smolorad.jobs.queue import Queue
from smolorad.link.convert import to_message
from smolorad.services.messages import event_message, heartbeat_message
from smolorad.store.jobs import JobStore

HEARTBEAT_S = 5.0


class JobStreams:
    """Jobs and their events as messages, for every service that starts or shows jobs."""

    def __init__(self, store: JobStore, events: Events, queue: Queue, resident: Callable[[], str]) -> None:
        self._resident = resident
        self._store = store
        self._events = events
        self._queue = queue

    def job(self, job: Job) -> jobs_pb2.Job:
        """The job with its place in the queue, and what it waits for."""
        if job.state is not JobState.QUEUED or self._events.wait_of(job.id):
            return to_message(jobs_pb2.Job, job, waiting_for=self._events.wait_of(job.id))
        waiting_for, resident = self._queue.waiting_for(job.id), self._resident()
        if isinstance(job.spec, TrainSpec) and resident and job.spec.model != resident:
            waiting_for += f"; then {job.spec.model} is loaded in place of {resident}"
        return to_message(jobs_pb2.Job, job, queue_position=self._queue.position(job.id), waiting_for=waiting_for)

    async def events(self, job_id: str, after: int = 0) -> AsyncGenerator[jobs_pb2.JobEvent, None]:
        """The job's events after a number, to its end, with a heartbeat while nothing happens."""
        follower = self._events.follow(job_id, after)
        upcoming: asyncio.Task[JobEvent] | None = None
        last = after
        try:
            while True:
                if upcoming is None:
                    upcoming = asyncio.ensure_future(anext(follower))
                done, _ = await asyncio.wait({upcoming}, timeout=HEARTBEAT_S)
                if not done:
                    yield heartbeat_message(job_id, last)
                    continue
                try:
                    event = upcoming.result()
                except StopAsyncIteration:
                    return
                upcoming, last = None, event.sequence
                yield event_message(event)
        finally:
            if upcoming is not None and not upcoming.done():
                upcoming.cancel()
                await asyncio.wait({upcoming})
            await follower.aclose()

    async def succeeded(self, job_id: str) -> Job:
        """The job, which has succeeded; raises the error that it failed with, or Cancelled."""
        job = await self._store.get(job_id)
        if job.state is JobState.CANCELLED:
            raise Cancelled(f"Job {job_id} was cancelled; type `smolora-client jobs resume {job_id}` to continue it.")
        if job.error is not None:
            raise by_reason(job.error.reason)(job.error.message, job.error.violations)
        if job.state not in TERMINAL:
            raise BadState(f"Job {job_id} was resumed; type `smolora-client jobs watch {job_id}` to follow it.")
        return job
