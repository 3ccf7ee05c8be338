"""Messages of the contract from the words of the domain, where names alone do not do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from google.protobuf.timestamp_pb2 import Timestamp

from smolora.v1 import jobs_pb2, models_pb2
from smolorad.domain import EVENT_KINDS, TERMINAL, Job, JobEvent, JobState, Model, TrainSpec
from smolorad.errors import BadState, Cancelled, by_reason
from smolorad.jobs.events import Events
from smolorad.jobs.queue import Queue
from smolorad.link.convert import to_message
from smolorad.store.jobs import JobStore

HEARTBEAT_S = 5.0

_KIND_OF = {cls: kind for kind, cls in EVENT_KINDS.items()}


class JobViews:
    """Streams of a job's events, as every service that starts a job shows them."""

    def __init__(self, store: JobStore, events: Events, queue: Queue, resident: Callable[[], str]) -> None:
        self._resident = resident
        self._store = store
        self._events = events
        self._queue = queue

    def job(self, job: Job) -> jobs_pb2.Job:
        """The job as it stands."""
        if job.state is not JobState.QUEUED or self._events.wait_of(job.id):
            return to_message(jobs_pb2.Job, job, waiting_for=self._events.wait_of(job.id))
        waiting_for, resident = self._queue.waiting_for(job.id), self._resident()
        if isinstance(job.spec, TrainSpec) and resident and job.spec.model != resident:
            waiting_for += f"; then {job.spec.model} is loaded in place of {resident}"
        return to_message(jobs_pb2.Job, job, queue_position=self._queue.position(job.id), waiting_for=waiting_for)

    async def events(self, job_id: str, after: int = 0) -> AsyncGenerator[jobs_pb2.JobEvent, None]:
        """The job's events after a number, to its end, with a heartbeat while nothing happens."""
        follower = self._events.follow(job_id, after)
        coming: asyncio.Task[JobEvent] | None = None
        last = after
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(anext(follower))
                done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT_S)
                if not done:
                    yield _heartbeat(job_id, last)
                    continue
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    return
                coming, last = None, event.sequence
                yield event_message(event)
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.wait({coming})
            await follower.aclose()

    async def ended(self, job_id: str) -> Job:
        """The job, which has succeeded; raises what it failed with, or Cancelled."""
        job = await self._store.get(job_id)
        if job.state is JobState.CANCELLED:
            raise Cancelled(f"Job {job_id} was cancelled; type `smolora-client jobs resume {job_id}` to go on with it.")
        if job.error is not None:
            raise by_reason(job.error.reason)(job.error.message, job.error.violations)
        if job.state not in TERMINAL:
            raise BadState(f"Job {job_id} was resumed; type `smolora-client jobs watch {job_id}` to follow it.")
        return job


def model_message(model: Model, resident: str = "") -> models_pb2.Model:
    """A model of this home; `resident` is the name of the one in memory."""
    return to_message(models_pb2.Model, model, resident=model.name == resident)


def event_message(event: JobEvent) -> jobs_pb2.JobEvent:
    """An event of a job; its body goes into the field that its class belongs to."""
    message = to_message(jobs_pb2.JobEvent, event)
    body = getattr(message, _KIND_OF[type(event.body)])
    body.SetInParent()
    body.CopyFrom(to_message(type(body), event.body))
    return message


def _heartbeat(job_id: str, last: int) -> jobs_pb2.JobEvent:
    now = Timestamp()
    now.GetCurrentTime()
    return jobs_pb2.JobEvent(job_id=job_id, sequence=last, time=now, heartbeat=jobs_pb2.Heartbeat())
