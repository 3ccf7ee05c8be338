"""Runs jobs: one attempt at a time, and the state that each attempt ends in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from smolorad.domain import EventBody, Job, JobError, JobKind, JobState, Note
from smolorad.errors import (
    BadState,
    Cancelled,
    EngineUnavailable,
    Internal,
    ShuttingDown,
    SmoloraError,
    of_system,
)
from smolorad.jobs.events import Events
from smolorad.jobs.run import Run, Unwritten, is_full
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.store.database import CannotWrite
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library

log = Log(__name__)

MAX_FAILED_STARTS = 3
ON_REQUEST = "on request"  # why a job moves that a caller cancels, pauses or resumes

Emit = Callable[[EventBody], Awaitable[Any]]


class JobHandler(Protocol):
    """The work of one kind of job."""

    async def work(self, job: Job, emit: Emit) -> Any:
        """Makes the artefact in the job's output folder, in a child process; may be cancelled at any time."""

    async def publish(self, job: Job, made: Any) -> str:
        """Publishes and records the artefact; never cancelled. Returns its name, with the revision where it has one."""


@runtime_checkable
class Pausable(Protocol):
    """A handler whose runs can stop early and keep their progress."""

    async def pause(self, job_id: str) -> bool:
        """Asks the job's run to end soon, with ShuttingDown; false where it has nothing to keep yet."""


@runtime_checkable
class Discarding(Protocol):
    """A handler whose jobs keep files outside their own folder."""

    async def discard(self, job: Job) -> None:
        """Removes the files that are unused once the job has failed or was cancelled."""


class JobRunner:
    """Runs jobs, one call a run; the only one that decides a job's next state."""

    def __init__(
        self, home: Home, store: JobStore, library: Library, events: Events, handlers: Mapping[JobKind, JobHandler]
    ) -> None:
        self._home = home
        self._store = store
        self._library = library
        self._events = events
        self._handlers = handlers
        self._runs: dict[str, Run] = {}

    async def attempt(self, job_id: str) -> Job:
        """Runs a queued job once, to its next state: ended, or queued again if its process died.

        Where the daemon ends before the next state is stored, the job stays as it is; the next start resumes it.
        """
        run = self._runs[job_id] = Run(job_id, self._events)
        try:
            job = await self._begin(job_id, run)
            if job.state is JobState.RUNNING:
                log.info("job started", job=job.id, kind=job.kind, target=job.target, attempt=job.attempts)
                job = await self._run(job, run)
            elif run.requested is None:
                return job  # it was cancelled or paused while it was queued
            if run.resume_after and job.state in (JobState.PAUSED, JobState.CANCELLED):
                try:
                    return await run.persist(lambda: self._events.move(job_id, JobState.QUEUED, ON_REQUEST))
                except BadState:
                    return await self._store.get(job_id)  # another call has just resumed it
            if job.state in (JobState.FAILED, JobState.CANCELLED):
                await self.discard(job)
            return job
        except Unwritten as error:
            log.error("job state not stored before shutdown", job=job_id, why=error.message)
            return await self._store.get(job_id)
        finally:
            run.close()
            del self._runs[job_id]

    async def requeue(self, job: Job) -> Job:
        """Moves a job whose daemon or process has ended back to the queue."""
        if job.state is JobState.RUNNING:
            job = await self._events.move(job.id, JobState.INTERRUPTED, "the daemon ended while it ran")
        if job.state is JobState.INTERRUPTED:
            job = await self._events.move(job.id, JobState.QUEUED, "it continues where it stopped")
        return job

    async def discard(self, job: Job) -> None:
        """Removes what a failed or cancelled job leaves, except a training's checkpoints."""
        folders = self._home.job(job.id)
        # Only what is empty: the engine may be writing still, and the next start sweeps.
        with contextlib.suppress(OSError):
            folders.stage.rmdir()
            folders.root.rmdir()
        handler = self._handlers[job.kind]
        if isinstance(handler, Discarding):
            try:
                await handler.discard(job)
            except SmoloraError as error:
                log.warning("files of an ended job are removed at the next start", job=job.id, why=error.message)

    def stop(self, job_id: str, to: JobState, why: str = "") -> bool:
        """Cancels a run; the job moves to `to`. False where the job does not run."""
        if (run := self._runs.get(job_id)) is None:
            return False
        run.resume_after = False
        run.end(to, why)
        return True

    def resume(self, job_id: str) -> bool:
        """Queues a run again that is about to end as paused or cancelled; a run that waits for disk space tries again now.

        False where the job does not run.
        """
        if (run := self._runs.get(job_id)) is None:
            return False
        run.resume_after = run.requested in (JobState.PAUSED, JobState.CANCELLED)
        run.wake()
        return True

    def wake(self, job_id: str) -> None:
        """Makes a run that waits for disk space look at its job at once."""
        if (run := self._runs.get(job_id)) is not None:
            run.wake()

    async def pause(self, job_id: str) -> bool:
        """Ends a run, after a checkpoint where its handler can; the job becomes paused. False where the job does not run."""
        if (run := self._runs.get(job_id)) is None:
            return False
        if run.requested is JobState.CANCELLED and not run.resume_after:
            return True
        run.requested, run.why, run.resume_after = JobState.PAUSED, ON_REQUEST, False
        handler = self._handlers[(await self._store.get(job_id)).kind]
        if not run.waits and isinstance(handler, Pausable) and await handler.pause(job_id):
            return True
        run.end(JobState.PAUSED, ON_REQUEST)
        return True

    def stop_all(self, to: JobState, why: str) -> None:
        """Ends every run, as the daemon ends. A run that a caller already cancelled or paused keeps that state."""
        for run in tuple(self._runs.values()):
            run.closing = True
            run.end(run.requested or to, run.why or why)

    async def _begin(self, job_id: str, run: Run) -> Job:
        """The job, now running; or its present state, where it ended while it was queued."""

        async def begin() -> Job:
            if run.resume_after:
                run.requested, run.resume_after = None, False
            await self.requeue(await self._store.get(job_id))
            if run.requested in (JobState.PAUSED, JobState.CANCELLED):
                return await self._events.move(job_id, run.requested, run.why)
            return await self._events.move(job_id, JobState.RUNNING)

        try:
            return await run.persist(begin)
        except BadState:
            return await self._store.get(job_id)

    async def _run(self, job: Job, run: Run) -> Job:
        """Runs a job until it has ended. After a full disk it starts again, from its checkpoint, when there is space."""
        while (ended := await self._run_once(job, run)) is None:
            log.info("job restarted: disk space is free again", job=job.id)
        return ended

    async def _run_once(self, job: Job, run: Run) -> Job | None:
        """The job in its next state; None where the disk was full and has space now."""
        try:
            result = await self._produce(job, run)
        except asyncio.CancelledError:
            if run.task is None or not run.task.cancelled():
                raise  # the daemon is cancelled, not this run
            return await self._end(job, run.requested or JobState.INTERRUPTED, run.why)
        except Cancelled:
            return await self._end(job, JobState.CANCELLED)
        except ShuttingDown as error:
            return await self._end(job, run.requested or JobState.INTERRUPTED, run.why or error.message)
        except EngineUnavailable as error:
            return await self._retry_or_fail(job, run, error)
        except Exception as error:
            if run.requested is not None and isinstance(error, CannotWrite):
                return await self._end(job, run.requested, run.why)  # the result waited to be published
            if is_full(error):
                return await self._wait_for_space(job, run, error)
            if isinstance(error, SmoloraError):
                return await self._fail(job, error)
            if (known := of_system(error)) is not None:
                return await self._fail(job, known)
            log.exception("job failed", job=job.id)
            return await self._fail(job, Internal("Something went wrong inside the daemon; please report it with its log."))
        # The result is published and recorded: a daemon that dies from here on finds it and needs no checkpoint.
        await asyncio.to_thread(shutil.rmtree, self._home.job(job.id).root, ignore_errors=True)
        return await self._end(job, JobState.SUCCEEDED, result=result)

    async def _wait_for_space(self, job: Job, run: Run, error: Exception) -> Job | None:
        """Waits for disk space; None once there is some, else the job, which was cancelled or paused meanwhile."""
        log.error("disk full: job waits for space", job=job.id, why=error)
        stage = self._home.job(job.id).stage
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)  # an incomplete artefact only takes space
        await run.wait_for_space(self._home.root)
        return None if run.requested is None else await self._end(job, run.requested, run.why)

    async def _produce(self, job: Job, run: Run) -> str:
        if (known := await self._published(job)) is not None:
            return known
        handler = self._handlers[job.kind]
        await asyncio.to_thread(self._clear_stage, job.id)

        async def emit(body: EventBody) -> None:
            await run.persist(lambda: self._events.append(job.id, body))

        run.task = asyncio.create_task(handler.work(job, emit), name=f"job-{job.id}")
        if run.requested is not None:
            run.task.cancel()
        made = await run.task

        async def publish() -> str:
            return await self._published(job) or await handler.publish(job, made)

        return await run.persist(publish, unless_requested=True)

    async def _published(self, job: Job) -> str | None:
        """What the job published before the daemon died or the disk was full; None where it published nothing."""
        made = await self._library.made_by(job.id)
        return None if made is None else str(getattr(made, "ref", made.name))

    def _clear_stage(self, job_id: str) -> None:
        folders = self._home.job(job_id)
        shutil.rmtree(folders.stage, ignore_errors=True)
        folders.stage.mkdir(mode=0o700, parents=True)

    async def _retry_or_fail(self, job: Job, run: Run, error: EngineUnavailable) -> Job:
        """Queues a job again whose process died, unless it was cancelled or paused, or failed too often without progress."""
        await self._end(job, JobState.INTERRUPTED, error.message)
        if run.requested in (JobState.PAUSED, JobState.CANCELLED):
            return await self._end(job, run.requested, run.why)
        starts = await self._events.failed_starts(job.id)
        if starts < MAX_FAILED_STARTS:
            return await self._end(job, JobState.QUEUED, "it continues where it stopped")
        message = (
            f"Its process died {starts} times in a row without getting further; read the daemon's log, "
            f"make the work smaller (batch size, max_length), then type `smolora-client jobs resume {job.id}`."
        )
        return await self._fail(job, EngineUnavailable(message))

    async def _fail(self, job: Job, error: SmoloraError) -> Job:
        for violation in error.violations:
            note = Note(f"{violation.field}: {violation.description}")
            await self._runs[job.id].persist(functools.partial(self._events.append, job.id, note))
        return await self._end(job, JobState.FAILED, error=JobError(error.reason, error.message, error.violations))

    async def _end(self, job: Job, to: JobState, why: str = "", *, error: JobError | None = None, result: str = "") -> Job:
        """Moves a job to the state that its run ends in."""
        move = functools.partial(self._events.move, job.id, to, why, error=error, result=result)
        moved = await self._runs[job.id].persist(move)
        log.info("job moved", job=job.id, state=to, **({"reason": error.reason, "why": error.message} if error else {}))
        return moved
