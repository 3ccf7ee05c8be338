"""Who runs next: two lanes, first come, first served within each."""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from smolorad.domain import TERMINAL, Job, JobKind, JobSpec, JobState
from smolorad.errors import AlreadyExists, BadState, NoSpace, QueueFull, ShuttingDown
from smolorad.jobs.events import Events
from smolorad.jobs.job_runner import JobRunner
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
    """Runs its jobs one after the other."""

    def __init__(self, attempt: Callable[[str], Awaitable[Job]]) -> None:
        self._attempt = attempt
        self._filled = asyncio.Event()
        self._closed = False
        self.waiting: deque[str] = deque()
        self.running = ""

    def put(self, job_id: str) -> None:
        """At the end of the line."""
        self.waiting.append(job_id)
        self._filled.set()

    def before(self, place: int) -> str:
        """What one at this place in the line waits for; empty where it is next and nothing runs."""
        told = [f"job {self.running} runs"] if self.running else []
        told += [f"{place} {'waits' if place == 1 else 'wait'} before it"] if place else []
        return ", ".join(told)

    def close(self) -> None:
        """Starts nothing more; what waits is forgotten here, and stays queued in the store."""
        self._closed = True
        self.waiting.clear()
        self._filled.set()

    async def work(self) -> None:
        """Until it is closed, and the run under way has ended."""
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
                # A bug, or a row that cannot be read. The others run on; `jobs resume` puts this one into the line again.
                log.exception("job does not run until it is resumed, or the daemon starts again", job=self.running)
            finally:
                self.running = ""


class Queue:
    """Takes jobs, and has them run."""

    def __init__(self, home: Home, store: JobStore, events: Events, machine: JobRunner, units: Units, max_queue: int) -> None:
        self._home = home
        self._units = units
        self._store = store
        self._events = events
        self._machine = machine
        self._max_queue = max_queue
        self._lanes = {name: Lane(machine.attempt) for name in (ENGINE, WORKER)}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        # Listed before the socket is bound: what comes later is somebody's.
        self._leftovers = [*home.jobs.iterdir(), *home.uploads.iterdir()]

    async def start(self) -> None:
        """Takes up what an earlier daemon left, throws away what nobody needs, and begins to run jobs."""
        unfinished = await self._store.unfinished()
        for job in unfinished:
            if job.state is JobState.PAUSED:
                continue
            try:
                await self._machine.line_up(job)
            except (NoSpace, CannotWrite) as error:
                log.warning("a job is written down as queued once there is room", job=job.id, why=error.message)
            self._lane(job).put(job.id)
        failed = await self._store.failed_preparations()
        await asyncio.to_thread(self._sweep, uploads_of([*unfinished, *failed]))
        self._tasks = [asyncio.create_task(lane.work(), name=f"lane-{name}") for name, lane in self._lanes.items()]

    def shut(self) -> None:
        """Takes and starts no more jobs; what runs goes on."""
        self._closing = True
        for lane in self._lanes.values():
            lane.close()

    async def close(self) -> None:
        """Interrupts what runs; the daemon's next start takes it up again."""
        self.shut()
        self._machine.stop_all(JobState.INTERRUPTED, "the daemon ended")
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def earlier(self, kind: JobKind, target: str, request_id: str) -> Job | None:
        """The job that this request id has started already, if any; raises AlreadyExists if it was another request."""
        job = await self._store.by_request(request_id)
        if job is not None and (job.kind, job.target) != (kind, target):
            raise AlreadyExists(
                f"The request id {request_id!r} belongs to job {job.id}, which is another request; choose a new id."
            )
        return job

    @unit
    async def submit(self, kind: JobKind, target: str, spec: JobSpec, request_id: str = "") -> Job:
        """Writes a job down and lines it up; the same request id gives the earlier job.

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
        """Ends a job: at once while it waits, within a micro-step while it runs; one that has ended stays as it is."""
        while (job := await self._store.get(job_id)).state not in TERMINAL:
            if job.state is JobState.RUNNING and self._machine.stop(job_id, JobState.CANCELLED, "somebody asked"):
                return job
            try:
                job = await self._events.move(job_id, JobState.CANCELLED, "somebody asked", expected=job.state)
            except BadState:
                continue  # it has just begun to run, or ended
            except (NoSpace, CannotWrite):
                if not self._machine.stop(job_id, JobState.CANCELLED, "somebody asked"):
                    raise
                return job  # it waits for room already, and becomes cancelled instead
            self._unline(job)
            await self._machine.discard(job)
            return job
        return job

    @unit
    async def pause(self, job_id: str) -> Job:
        """Holds a job: at once while it waits, at its next step while it trains. Raises BadState if it has ended."""
        while (job := await self._store.get(job_id)).state is not JobState.PAUSED:
            if job.state is JobState.RUNNING and await self._machine.pause(job_id):
                return job
            if job.state in TERMINAL:
                raise BadState(f"Job {job_id} has ended ({job.state}), so it cannot be paused.")
            try:
                job = await self._events.move(job_id, JobState.PAUSED, "somebody asked", expected=job.state)
            except BadState:
                continue  # it has just begun to run, or ended
            except (NoSpace, CannotWrite):
                if not await self._machine.pause(job_id):
                    raise
                return job  # it waits for room already, and becomes paused instead
            self._unline(job)
            return job
        return job

    @unit
    async def resume(self, job_id: str) -> Job:
        """Lines a paused, failed or cancelled job up again, now or once it is so; one that waits or runs stays as it is.

        Raises BadState if it succeeded.
        """
        while (job := await self._store.get(job_id)).state in TERMINAL | {JobState.PAUSED}:
            if job.state is JobState.SUCCEEDED:
                raise BadState(f"Job {job_id} has succeeded and made {job.result}; there is nothing to resume.")
            self._admit()
            try:
                job = await self._events.move(job_id, JobState.QUEUED, "somebody asked", expected=job.state)
            except BadState:
                continue  # another call has just moved it
            self._lane(job).put(job_id)
            return job
        if not self._machine.resume(job_id) and job_id not in self._lane(job).waiting:
            self._admit()
            self._lane(job).put(job_id)
        return job

    def position(self, job_id: str) -> int:
        """How many run before it; 0 for one that is next, or does not wait."""
        return next((lane.waiting.index(job_id) for lane in self._lanes.values() if job_id in lane.waiting), 0)

    def waiting_for(self, job_id: str) -> str:
        """What a job waits for, in one sentence; empty where it does not wait."""
        lane = next((lane for lane in self._lanes.values() if job_id in lane.waiting), None)
        if lane is None:
            return ""
        return lane.before(lane.waiting.index(job_id)) or "it is next"

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def on_engine(self) -> str:
        """The job that runs on the engine; empty where none does."""
        return self._lanes[ENGINE].running

    async def unfinished(self) -> list[Job]:
        """The jobs that wait or run."""
        return await self._store.unfinished()

    def _admit(self) -> None:
        if self._closing:
            raise ShuttingDown("The daemon is shutting down; start it again with `smolorad serve`.")
        if self.waiting >= self._max_queue:
            raise QueueFull(f"{self.waiting} jobs wait already; try again when some have ended, or raise SMOLORA_MAX_QUEUE.")

    def _lane(self, job: Job) -> Lane:
        return self._lanes[LANE_OF[job.kind]]

    def _unline(self, job: Job) -> None:
        lane = self._lane(job)
        if job.id in lane.waiting:
            lane.waiting.remove(job.id)
        self._machine.stir(job.id)

    def _sweep(self, needed: set[str]) -> None:
        """Removes stages, which no process writes now, and uploads that are not needed."""
        for path in self._leftovers:
            if path.parent == self._home.jobs:
                shutil.rmtree(self._home.job(path.name).stage, ignore_errors=True)
            elif path.is_file():
                path.unlink(missing_ok=True)
            elif path.name not in needed:
                shutil.rmtree(path, ignore_errors=True)
