"""The job queue: two lanes, each first in, first out."""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from smolorad.domain import TERMINAL, Job, JobKind, JobSpec, JobState
from smolorad.errors import AlreadyExists, BadState, NoSpace, QueueFull, ShuttingDown
from smolorad.jobs.events import Events
from smolorad.jobs.job_runner import ON_REQUEST, JobRunner
from smolorad.jobs.prepare import uploads_of
from smolorad.jobs.units import Units, unit
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.store.database import CannotWrite
from smolorad.store.jobs import JobStore

log = Log(__name__)

ENGINE, WORKER = "engine", "worker"
LANE_OF: Mapping[JobKind, str] = {
    JobKind.TRAIN: ENGINE,
    JobKind.PREPARE: WORKER,
    JobKind.MERGE: WORKER,
    JobKind.IMPORT: WORKER,
}


class Lane:
    """Runs its jobs one after another."""

    def __init__(self, attempt: Callable[[str], Awaitable[Job]]) -> None:
        self._attempt = attempt
        self._filled = asyncio.Event()
        self._closed = False
        self.waiting: deque[str] = deque()
        self.running = ""

    def put(self, job_id: str) -> None:
        """Queues a job last."""
        self.waiting.append(job_id)
        self._filled.set()

    def before(self, place: int) -> str:
        """What the job at this place waits for; empty where it is next and nothing runs."""
        reasons = [f"job {self.running} runs"] if self.running else []
        reasons += [f"{place} {'waits' if place == 1 else 'wait'} before it"] if place else []
        return ", ".join(reasons)

    def close(self) -> None:
        """Starts no more jobs; those that wait stay queued in the store."""
        self._closed = True
        self.waiting.clear()
        self._filled.set()

    async def work(self) -> None:
        """Runs jobs until the lane is closed and its last run has ended."""
        while not self._closed:
            if not self.waiting:
                self._filled.clear()
                await self._filled.wait()
                continue
            self.running = self.waiting.popleft()
            try:
                job = await self._attempt(self.running)
                if job.state is JobState.QUEUED:
                    self.waiting.appendleft(job.id)
            except Exception:
                # A bug, or a row that cannot be read. The other jobs run; `jobs resume` queues this one again.
                log.exception("job skipped until it is resumed or the daemon restarts", job=self.running)
            finally:
                self.running = ""


class Queue:
    """Accepts jobs and runs them."""

    def __init__(self, home: Home, store: JobStore, events: Events, runner: JobRunner, units: Units, max_queue: int) -> None:
        self._home = home
        self._units = units
        self._store = store
        self._events = events
        self._runner = runner
        self._max_queue = max_queue
        self._lanes = {name: Lane(runner.attempt) for name in (ENGINE, WORKER)}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        # Listed before the socket is bound: what appears later belongs to a client.
        self._leftovers = [*home.jobs.iterdir(), *home.uploads.iterdir()]

    async def start(self) -> None:
        """Queues the jobs that an earlier daemon left, removes unused files, and starts the lanes."""
        unfinished = await self._store.unfinished()
        for job in unfinished:
            if job.state is JobState.PAUSED:
                continue
            try:
                await self._runner.requeue(job)
            except (NoSpace, CannotWrite) as error:
                log.warning("job is stored as queued once the disk has space", job=job.id, why=error.message)
            self._lane(job).put(job.id)
        failed = await self._store.failed_preparations()
        await asyncio.to_thread(self._sweep, uploads_of([*unfinished, *failed]))
        self._tasks = [asyncio.create_task(lane.work(), name=f"lane-{name}") for name, lane in self._lanes.items()]

    def shut(self) -> None:
        """Accepts and starts no more jobs; those under way continue."""
        self._closing = True
        for lane in self._lanes.values():
            lane.close()

    async def close(self) -> None:
        """Interrupts the running jobs; the daemon's next start resumes them."""
        self.shut()
        self._runner.stop_all(JobState.INTERRUPTED, "the daemon ended")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def earlier(self, kind: JobKind, target: str, request_id: str) -> Job | None:
        """The job that this request id has started, if any; raises AlreadyExists if that was another request."""
        job = await self._store.by_request(request_id)
        if job is not None and (job.kind, job.target) != (kind, target):
            raise AlreadyExists(
                f"The request id {request_id!r} belongs to job {job.id}, which is another request; choose a new id."
            )
        return job

    @unit
    async def submit(self, kind: JobKind, target: str, spec: JobSpec, request_id: str = "") -> Job:
        """Stores and queues a job; the same request id returns the earlier job.

        Raises QueueFull, ShuttingDown, AlreadyExists.
        """
        if (known := await self.earlier(kind, target, request_id)) is not None:
            return known
        self._admit()
        lane = self._lanes[LANE_OF[kind]]
        job, created = await self._store.create(kind, target, spec, request_id, lane.before(len(lane.waiting)))
        if created:
            self._lane(job).put(job.id)
            log.info("job queued", job=job.id, kind=kind, target=target)
        return job

    @unit
    async def cancel(self, job_id: str) -> Job:
        """Cancels a job: at once while it waits, within a micro-step while it runs; an ended job stays as it is."""
        while (job := await self._store.get(job_id)).state not in TERMINAL:
            if job.state is JobState.RUNNING and self._runner.stop(job_id, JobState.CANCELLED, ON_REQUEST):
                return job
            try:
                job = await self._events.move(job_id, JobState.CANCELLED, ON_REQUEST, expected=job.state)
            except BadState:
                continue  # it has just begun to run, or ended
            except (NoSpace, CannotWrite):
                if not self._runner.stop(job_id, JobState.CANCELLED, ON_REQUEST):
                    raise
                return job  # its run waits for disk space, and ends as cancelled
            self._dequeue(job)
            await self._runner.discard(job)
            return job
        return job

    @unit
    async def pause(self, job_id: str) -> Job:
        """Pauses a job: at once while it waits, at its next step while it trains. Raises BadState if it has ended."""
        while (job := await self._store.get(job_id)).state is not JobState.PAUSED:
            if job.state is JobState.RUNNING and await self._runner.pause(job_id):
                return job
            if job.state in TERMINAL:
                raise BadState(f"Job {job_id} has ended ({job.state}), so it cannot be paused.")
            try:
                job = await self._events.move(job_id, JobState.PAUSED, ON_REQUEST, expected=job.state)
            except BadState:
                continue  # it has just begun to run, or ended
            except (NoSpace, CannotWrite):
                if not await self._runner.pause(job_id):
                    raise
                return job  # its run waits for disk space, and ends as paused
            self._dequeue(job)
            return job
        return job

    @unit
    async def resume(self, job_id: str) -> Job:
        """Queues a paused, failed or cancelled job again, now or once it is so; one that waits or runs stays as it is.

        Raises BadState if it succeeded.
        """
        while (job := await self._store.get(job_id)).state in TERMINAL | {JobState.PAUSED}:
            if job.state is JobState.SUCCEEDED:
                raise BadState(f"Job {job_id} has succeeded and made {job.result}; there is nothing to resume.")
            self._admit()
            try:
                job = await self._events.move(job_id, JobState.QUEUED, ON_REQUEST, expected=job.state)
            except BadState:
                continue  # another call has just moved it
            self._lane(job).put(job_id)
            return job
        if not self._runner.resume(job_id) and job_id not in self._lane(job).waiting:
            self._admit()
            self._lane(job).put(job_id)
        return job

    def position(self, job_id: str) -> int:
        """How many jobs run before it; 0 for one that is next, or does not wait."""
        return next((lane.waiting.index(job_id) for lane in self._lanes.values() if job_id in lane.waiting), 0)

    def waiting_for(self, job_id: str) -> str:
        """What a job waits for; empty where it does not wait."""
        lane = next((lane for lane in self._lanes.values() if job_id in lane.waiting), None)
        if lane is None:
            return ""
        return lane.before(lane.waiting.index(job_id)) or "it is next"

    @property
    def waiting(self) -> int:
        """The number of queued jobs."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def on_engine(self) -> str:
        """The job that runs on the engine; empty where none runs."""
        return self._lanes[ENGINE].running

    async def unfinished(self) -> list[Job]:
        """The jobs that wait, run or are paused."""
        return await self._store.unfinished()

    def _admit(self) -> None:
        if self._closing:
            raise ShuttingDown("The daemon is shutting down; start it again with `smolorad serve`.")
        if self.waiting >= self._max_queue:
            raise QueueFull(f"{self.waiting} jobs wait already; try again when some have ended, or raise SMOLORA_MAX_QUEUE.")

    def _lane(self, job: Job) -> Lane:
        return self._lanes[LANE_OF[job.kind]]

    def _dequeue(self, job: Job) -> None:
        lane = self._lane(job)
        if job.id in lane.waiting:
            lane.waiting.remove(job.id)
        self._runner.wake(job.id)

    def _sweep(self, needed: set[str]) -> None:
        """Removes stages, which no process writes now, and uploads that no job needs."""
        for path in self._leftovers:
            if path.parent == self._home.jobs:
                shutil.rmtree(self._home.job(path.name).stage, ignore_errors=True)
            elif path.is_file():
                path.unlink(missing_ok=True)
            elif path.name not in needed:
                shutil.rmtree(path, ignore_errors=True)
