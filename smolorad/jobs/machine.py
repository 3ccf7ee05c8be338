"""One run of a job: what it does, how it can end, and what follows from that."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from smolorad.domain import EventBody, Job, JobError, JobKind, JobState, Note
from smolorad.errors import (
    BadState,
    Cancelled,
    EngineUnavailable,
    Internal,
    NoSpace,
    ShuttingDown,
    SmoloraError,
    is_disk_full,
)
from smolorad.jobs.events import Events
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library

log = Log(__name__)

STARTS_IN_VAIN = 3
_ASKED = "somebody asked"
_SPACE_WAIT_S = 5.0

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


@dataclass(slots=True)
class _Run:
    """A run under way: its cancellable part, and what it shall become if that part is cancelled."""

    task: asyncio.Task[Any] | None = None
    wish: JobState | None = None
    why: str = ""
    again: bool = False  # it was resumed before the wish came true, so it is lined up again after that


class Machine:
    """Runs jobs, one call a run; the only one that decides a job's next state."""

    def __init__(self, home: Home, store: JobStore, library: Library, events: Events, kinds: Mapping[JobKind, Kind]) -> None:
        self._home = home
        self._store = store
        self._library = library
        self._events = events
        self._kinds = kinds
        self._runs: dict[str, _Run] = {}

    async def attempt(self, job_id: str) -> Job:
        """One run of a queued job, to its next state: ended, or queued again if its process died."""
        run = self._runs[job_id] = _Run()
        try:
            try:
                job = await self._events.move(job_id, JobState.RUNNING)
            except BadState:
                return await self._store.get(job_id)  # cancelled while it waited
            log.info("job runs", job=job.id, kind=job.kind, target=job.target, attempt=job.attempts)
            job = await self._run(job, run)
            if run.again and job.state in (JobState.PAUSED, JobState.CANCELLED):
                try:
                    return await self._events.move(job_id, JobState.QUEUED, _ASKED)
                except BadState:
                    return await self._store.get(job_id)  # it was resumed once more in between
            if job.state in (JobState.FAILED, JobState.CANCELLED):
                await self.discard(job)
            return job
        finally:
            del self._runs[job_id]

    async def discard(self, job: Job) -> None:
        """Throws away what a job leaves that has failed or was cancelled, but for a training's checkpoints."""
        folders = self._home.job(job.id)
        # Only what is empty: the engine may be writing still, and the next start sweeps.
        with contextlib.suppress(OSError):
            folders.stage.rmdir()
            folders.root.rmdir()
        kind = self._kinds[job.kind]
        if isinstance(kind, Discarding):
            await kind.discard(job)

    def stop(self, job_id: str, to: JobState, why: str = "") -> None:
        """Ends a run's cancellable part, if it is under way; the job becomes `to`."""
        if (run := self._runs.get(job_id)) is not None:
            run.wish, run.why, run.again = to, why, False
            if run.task is not None:
                run.task.cancel()

    def resume(self, job_id: str) -> None:
        """Has a run that is about to end as paused or cancelled go on after that."""
        if (run := self._runs.get(job_id)) is not None:
            run.again = run.wish in (JobState.PAUSED, JobState.CANCELLED)

    async def pause(self, job_id: str) -> None:
        """Has a run end with what it has done kept, if it can, or else at once; the job becomes paused."""
        if (run := self._runs.get(job_id)) is None or (run.wish is JobState.CANCELLED and not run.again):
            return
        run.wish, run.why, run.again = JobState.PAUSED, _ASKED, False
        kind = self._kinds[(await self._store.get(job_id)).kind]
        if isinstance(kind, Pausable) and await kind.pause(job_id):
            return
        if run.task is not None:
            run.task.cancel()

    def stop_all(self, to: JobState, why: str) -> None:
        """Ends every run; one that somebody has asked to end otherwise ends so."""
        for run in tuple(self._runs.values()):
            run.wish, run.why = run.wish or to, run.why or why
            if run.task is not None:
                run.task.cancel()

    async def _run(self, job: Job, run: _Run) -> Job:
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
        except SmoloraError as error:
            return await self._fail(job, error)
        except Exception as error:
            if is_disk_full(error):
                return await self._fail(job, NoSpace(f"The disk is full; free some space, then {_resume(job)}."))
            log.exception("job failed", job=job.id)
            return await self._fail(job, Internal("Something went wrong inside the daemon; please report it with its log."))
        # What it made is published and recorded: a daemon that dies from here on finds that, and needs no checkpoint.
        await asyncio.to_thread(shutil.rmtree, self._home.job(job.id).root, ignore_errors=True)
        return await self._end(job, JobState.SUCCEEDED, result=result)

    async def _made(self, job: Job, run: _Run) -> str:
        if (made := await self._library.made_by(job.id)) is not None:
            return str(getattr(made, "ref", made.name))  # it was published, and the daemon died before it could say so
        kind = self._kinds[job.kind]
        await asyncio.to_thread(self._clear_stage, job.id)

        async def tell(body: EventBody) -> None:
            await self._events.append(job.id, body)

        run.task = asyncio.create_task(kind.work(job, tell), name=f"job-{job.id}")
        if run.wish is not None:
            run.task.cancel()
        return await kind.publish(job, await run.task)

    def _clear_stage(self, job_id: str) -> None:
        folders = self._home.job(job_id)
        shutil.rmtree(folders.stage, ignore_errors=True)
        folders.stage.mkdir(mode=0o700, parents=True)

    async def _again(self, job: Job, run: _Run, error: EngineUnavailable) -> Job:
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
            await self._events.append(job.id, Note(f"{violation.field}: {violation.description}"))
        return await self._end(job, JobState.FAILED, error=JobError(error.reason, error.message, error.violations))

    async def _end(self, job: Job, to: JobState, why: str = "", *, error: JobError | None = None, result: str = "") -> Job:
        """Moves a job out of its run. A full disk delays that: a run whose end is not written down would never end."""
        while True:
            try:
                moved = await self._events.move(job.id, to, why, error=error, result=result)
                break
            except NoSpace:
                log.error("the disk is full: the end of a job waits for space", job=job.id, state=to)
                await asyncio.sleep(_SPACE_WAIT_S)
        log.info("job moved", job=job.id, state=to, **({"reason": error.reason, "why": error.message} if error else {}))
        return moved


def _resume(job: Job) -> str:
    return f"type `smolora-client jobs resume {job.id}`"
