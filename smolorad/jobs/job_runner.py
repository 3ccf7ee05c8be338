"""One run of a job: what it does, how it can end, and what follows from that."""

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

STARTS_IN_VAIN = 3
_ASKED = "somebody asked"

Tell = Callable[[EventBody], Awaitable[Any]]


class Kind(Protocol):
    """What a job of one kind does."""

    async def work(self, job: Job, tell: Tell) -> Any:
        """Has a child make the artefact in the job's output folder; may be cancelled at any time."""

    async def publish(self, job: Job, made: Any) -> str:
        """Makes it visible and records it; never cancelled. Returns the result's name, with its revision where it has one."""


@runtime_checkable
class Pausable(Protocol):
    """A kind whose runs can end early with what they have done kept."""

    async def pause(self, job_id: str) -> bool:
        """Has the job's run end soon, with ShuttingDown; false where it has nothing to keep yet."""


@runtime_checkable
class Discarding(Protocol):
    """A kind whose jobs hold something outside their own folder."""

    async def discard(self, job: Job) -> None:
        """Throws away what nobody needs now that the job has failed or was cancelled."""


class JobRunner:
    """Runs jobs, one call a run; the only one that decides a job's next state."""

    def __init__(self, home: Home, store: JobStore, library: Library, events: Events, kinds: Mapping[JobKind, Kind]) -> None:
        self._home = home
        self._store = store
        self._library = library
        self._events = events
        self._kinds = kinds
        self._runs: dict[str, Run] = {}

    async def attempt(self, job_id: str) -> Job:
        """One run of a queued job, to its next state: ended, or queued again if its process died.

        A job that the daemon's end keeps from writing down its next state stays as it is; the next start takes it up.
        """
        run = self._runs[job_id] = Run(job_id, self._events)
        try:
            job = await self._begun(job_id, run)
            if job.state is JobState.RUNNING:
                log.info("job runs", job=job.id, kind=job.kind, target=job.target, attempt=job.attempts)
                job = await self._run(job, run)
            elif run.wish is None:
                return job  # it was cancelled or paused while it waited in the line
            if run.again and job.state in (JobState.PAUSED, JobState.CANCELLED):
                try:
                    return await run.written(lambda: self._events.move(job_id, JobState.QUEUED, _ASKED))
                except BadState:
                    return await self._store.get(job_id)  # it was resumed once more in between
            if job.state in (JobState.FAILED, JobState.CANCELLED):
                await self.discard(job)
            return job
        except Unwritten as error:
            log.error("the next state of a job is not written down before the next start", job=job_id, why=error.message)
            return await self._store.get(job_id)
        finally:
            run.close()
            del self._runs[job_id]

    async def line_up(self, job: Job) -> Job:
        """Moves a job whose daemon or process has ended back to the queue."""
        if job.state is JobState.RUNNING:
            job = await self._events.move(job.id, JobState.INTERRUPTED, "the daemon ended while it ran")
        if job.state is JobState.INTERRUPTED:
            job = await self._events.move(job.id, JobState.QUEUED, "it goes on where it was")
        return job

    async def discard(self, job: Job) -> None:
        """Throws away what a job leaves that has failed or was cancelled, but for a training's checkpoints."""
        folders = self._home.job(job.id)
        # Only what is empty: the engine may be writing still, and the next start sweeps.
        with contextlib.suppress(OSError):
            folders.stage.rmdir()
            folders.root.rmdir()
        kind = self._kinds[job.kind]
        if isinstance(kind, Discarding):
            try:
                await kind.discard(job)
            except SmoloraError as error:
                log.warning("what a job left is not thrown away before the next start", job=job.id, why=error.message)

    def stop(self, job_id: str, to: JobState, why: str = "") -> bool:
        """Ends a run's cancellable part; the job becomes `to`. False where no run is under way."""
        if (run := self._runs.get(job_id)) is None:
            return False
        run.again = False
        run.end(to, why)
        return True

    def resume(self, job_id: str) -> bool:
        """Has a run that is about to end as paused or cancelled go on after that, and one that waits for room try now.

        False where no run is under way.
        """
        if (run := self._runs.get(job_id)) is None:
            return False
        run.again = run.wish in (JobState.PAUSED, JobState.CANCELLED)
        run.stir()
        return True

    def stir(self, job_id: str) -> None:
        """The job was moved while its run waited for room: the run looks at once."""
        if (run := self._runs.get(job_id)) is not None:
            run.stir()

    async def pause(self, job_id: str) -> bool:
        """Has a run end with what it has done kept, if it can, or else at once; the job becomes paused.

        False where no run is under way.
        """
        if (run := self._runs.get(job_id)) is None:
            return False
        if run.wish is JobState.CANCELLED and not run.again:
            return True
        run.wish, run.why, run.again = JobState.PAUSED, _ASKED, False
        kind = self._kinds[(await self._store.get(job_id)).kind]
        if not run.waits and isinstance(kind, Pausable) and await kind.pause(job_id):
            return True
        run.end(JobState.PAUSED, _ASKED)
        return True

    def stop_all(self, to: JobState, why: str) -> None:
        """Ends every run, as the daemon ends; one that was asked to end otherwise ends so."""
        for run in tuple(self._runs.values()):
            run.last = True
            run.end(run.wish or to, run.why or why)

    async def _begun(self, job_id: str, run: Run) -> Job:
        """The job, which runs now; or as it stands, where it was ended while it waited."""

        async def begin() -> Job:
            if run.again:
                run.wish, run.again = None, False
            await self.line_up(await self._store.get(job_id))
            if run.wish in (JobState.PAUSED, JobState.CANCELLED):
                return await self._events.move(job_id, run.wish, run.why)
            return await self._events.move(job_id, JobState.RUNNING)

        try:
            return await run.written(begin)
        except BadState:
            return await self._store.get(job_id)

    async def _run(self, job: Job, run: Run) -> Job:
        """Runs a job until it has ended. What meets a full disk begins again, from its checkpoint, when there is room."""
        while (ended := await self._ended(job, run)) is None:
            log.info("job begins again, as there is room", job=job.id)
        return ended

    async def _ended(self, job: Job, run: Run) -> Job | None:
        """The job in its next state; None where it met a full disk and there is room now."""
        try:
            result = await self._made(job, run)
        except asyncio.CancelledError:
            if run.task is None or not run.task.cancelled():
                raise  # not the run is ended, but the daemon
            return await self._end(job, run.wish or JobState.INTERRUPTED, run.why)
        except Cancelled:
            return await self._end(job, JobState.CANCELLED)
        except ShuttingDown as error:
            return await self._end(job, run.wish or JobState.INTERRUPTED, run.why or error.message)
        except EngineUnavailable as error:
            return await self._again(job, run, error)
        except Exception as error:
            if run.wish is not None and isinstance(error, CannotWrite):
                return await self._end(job, run.wish, run.why)  # it waited to be published
            if is_full(error):
                return await self._room(job, run, error)
            if isinstance(error, SmoloraError):
                return await self._fail(job, error)
            if (known := of_system(error)) is not None:
                return await self._fail(job, known)
            log.exception("job failed", job=job.id)
            return await self._fail(job, Internal("Something went wrong inside the daemon; please report it with its log."))
        # What it made is published and recorded: a daemon that dies from here on finds that, and needs no checkpoint.
        await asyncio.to_thread(shutil.rmtree, self._home.job(job.id).root, ignore_errors=True)
        return await self._end(job, JobState.SUCCEEDED, result=result)

    async def _room(self, job: Job, run: Run, error: Exception) -> Job | None:
        """Waits for room; None once there is some, else the job, which was asked to end meanwhile."""
        log.error("the disk is full: a job waits for room", job=job.id, why=error)
        stage = self._home.job(job.id).stage
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)  # half of something, which takes room
        await run.room(self._home.root)
        return None if run.wish is None else await self._end(job, run.wish, run.why)

    async def _made(self, job: Job, run: Run) -> str:
        if (known := await self._known(job)) is not None:
            return known
        kind = self._kinds[job.kind]
        await asyncio.to_thread(self._clear_stage, job.id)

        async def tell(body: EventBody) -> None:
            await run.written(lambda: self._events.append(job.id, body))

        run.task = asyncio.create_task(kind.work(job, tell), name=f"job-{job.id}")
        if run.wish is not None:
            run.task.cancel()
        made = await run.task

        async def publish() -> str:
            return await self._known(job) or await kind.publish(job, made)

        return await run.written(publish, unless_asked=True)

    async def _known(self, job: Job) -> str | None:
        """What the job has published, if it has: before the daemon died, or before the disk was full."""
        made = await self._library.made_by(job.id)
        return None if made is None else str(getattr(made, "ref", made.name))

    def _clear_stage(self, job_id: str) -> None:
        folders = self._home.job(job_id)
        shutil.rmtree(folders.stage, ignore_errors=True)
        folders.stage.mkdir(mode=0o700, parents=True)

    async def _again(self, job: Job, run: Run, error: EngineUnavailable) -> Job:
        """Its process died: back to the queue, unless somebody has asked for its end, or it has led nowhere for some times."""
        await self._end(job, JobState.INTERRUPTED, error.message)
        if run.wish in (JobState.PAUSED, JobState.CANCELLED):
            return await self._end(job, run.wish, run.why)
        starts = await self._events.starts_in_vain(job.id)
        if starts < STARTS_IN_VAIN:
            return await self._end(job, JobState.QUEUED, "it goes on where it was")
        message = (
            f"Its process died {starts} times in a row without getting further; read the daemon's log, "
            f"make the work smaller (batch size, max_length), then {_resume(job)}."
        )
        return await self._fail(job, EngineUnavailable(message))

    async def _fail(self, job: Job, error: SmoloraError) -> Job:
        for violation in error.violations:
            note = Note(f"{violation.field}: {violation.description}")
            await self._runs[job.id].written(functools.partial(self._events.append, job.id, note))
        return await self._end(job, JobState.FAILED, error=JobError(error.reason, error.message, error.violations))

    async def _end(self, job: Job, to: JobState, why: str = "", *, error: JobError | None = None, result: str = "") -> Job:
        """Moves a job out of its run."""
        move = functools.partial(self._events.move, job.id, to, why, error=error, result=result)
        moved = await self._runs[job.id].written(move)
        log.info("job moved", job=job.id, state=to, **({"reason": error.reason, "why": error.message} if error else {}))
        return moved


def _resume(job: Job) -> str:
    return f"type `smolora-client jobs resume {job.id}`"
