"""Jobs and their events. Every change of a job and its event are one transaction."""

from __future__ import annotations

import dataclasses
import secrets
import sqlite3
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from smolorad.domain import (
    EVENT_KINDS,
    SPEC_OF,
    TERMINAL,
    EventBody,
    Job,
    JobError,
    JobEvent,
    JobKind,
    JobSpec,
    JobState,
    Note,
    StateChange,
    TrainProgress,
)
from smolorad.errors import AlreadyExists, BadState, Damaged, NotFound
from smolorad.log import Log
from smolorad.store.database import Database
from smolorad.store.queries import SQL, from_json, readable, to_json

log = Log(__name__)

_KIND_OF = {cls: kind for kind, cls in EVENT_KINDS.items()}
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # without l, o, 0 and 1: ids are read aloud and typed
_ID_LENGTH = 12


class _Row(msgspec.Struct, frozen=True):
    """The columns of a job: SQLite keeps a value of any type in any of them."""

    id: str
    kind: str
    state: str
    target: str
    spec: str
    create_time: str
    start_time: str | None
    end_time: str | None
    last_sequence: Annotated[int, msgspec.Meta(ge=0)]
    attempts: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    error: str | None
    result: str
    progress: str | None
    request_id: str


class JobStore:
    """Jobs, oldest to newest by a counter; each with its events, numbered from 1 without gaps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, kind: JobKind, target: str, spec: JobSpec, request_id: str = "", why: str = "") -> tuple[Job, bool]:
        """A new job, queued for a reason, and True; or the job that this request id has started before, and False.

        Raises AlreadyExists if the request id belongs to another request.
        """

        def work(db: sqlite3.Connection) -> tuple[Job, bool]:
            if (row := _by_request(db, request_id)) is not None:
                known = _job(row)
                if (known.kind, known.target) != (kind, target):
                    raise AlreadyExists(
                        f"The request id {request_id!r} belongs to job {known.id}, which is another request; choose a new id."
                    )
                return known, False
            job_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
            values = {
                "id": job_id,
                "kind": kind,
                "state": JobState.QUEUED,
                "target": target,
                "spec": to_json(spec),
                "request_id": request_id,
                "create_time": _now().isoformat(),
            }
            db.execute(SQL["add_job"], values)
            _append(db, job_id, StateChange(JobState.QUEUED, why))
            return _get(db, job_id), True

        return await self._database.run(work)

    async def get(self, job_id: str) -> Job:
        """One job; raises NotFound."""
        return await self._database.run(lambda db: _get(db, job_id))

    async def by_request(self, request_id: str) -> Job | None:
        """The job that a request id started, if any."""

        def work(db: sqlite3.Connection) -> Job | None:
            row = _by_request(db, request_id)
            return None if row is None else _job(row)

        return await self._database.run(work)

    async def newest(self, limit: int, before: str | None = None) -> list[Job]:
        """Newest first; those created before the job `before`, or all. A row that cannot be read is left out."""
        return await self._database.run(lambda db: readable(db.execute(SQL["jobs"], {"before": before}), _job, limit))

    async def unfinished(self) -> list[Job]:
        """Queued, running, interrupted and paused jobs, oldest first. A row that cannot be read is left out."""
        return await self._database.run(lambda db: readable(db.execute(SQL["unfinished_jobs"]), _job))

    async def failed_preparations(self) -> list[Job]:
        """Of each dataset the last preparation that has ended, where it has failed."""
        return await self._database.run(lambda db: readable(db.execute(SQL["failed_preparations"]), _job))

    async def failures_of(self, dataset: str) -> list[Job]:
        """Every preparation of a dataset that has failed."""
        return await self._database.run(lambda db: readable(db.execute(SQL["failures_of"], {"target": dataset}), _job))

    async def move(
        self,
        job_id: str,
        to: JobState,
        why: str = "",
        *,
        error: JobError | None = None,
        result: str = "",
        expected: JobState | None = None,
    ) -> tuple[Job, JobEvent]:
        """Moves a job to its next state, with an event.

        Running counts an attempt, and begins the job's time at the first. Raises NotFound, and BadState where the table of
        moves does not allow it, or where the job is not in the state that was expected.
        """

        def work(db: sqlite3.Connection) -> tuple[Job, JobEvent]:
            before = _get(db, job_id)
            if expected not in (None, before.state):
                raise BadState(f"Job {job_id} has become {before.state} meanwhile; try again.")
            now = _now()
            running = to is JobState.RUNNING
            job = dataclasses.replace(
                before.moved(to),
                start_time=before.start_time or (now if running else None),
                end_time=now if to in TERMINAL else None,
                attempts=before.attempts + running,
                error=error,
                result=result,
            )
            db.execute(SQL["update_job"], _columns(job))
            event = _append(db, job_id, StateChange(to, why))
            return dataclasses.replace(job, last_sequence=event.sequence), event

        return await self._database.run(work)

    async def append(self, job_id: str, body: EventBody) -> JobEvent:
        """Adds an event with the next number; training progress becomes the job's progress too. Raises NotFound."""

        def work(db: sqlite3.Connection) -> JobEvent:
            if isinstance(body, TrainProgress):
                db.execute(SQL["set_progress"], {"id": job_id, "progress": to_json(body)})
            return _append(db, job_id, body)

        return await self._database.run(work)

    async def events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        """The job's events after a number, in order; at most `limit`."""
        values = {"job_id": job_id, "after": after, "limit": limit}
        return await self._database.run(lambda db: [_event(row) for row in db.execute(SQL["events"], values)])


def _now() -> datetime:
    return datetime.now(UTC)


def _get(db: sqlite3.Connection, job_id: str) -> Job:
    row = db.execute(SQL["job"], {"id": job_id}).fetchone()
    if row is None:
        raise NotFound(f"There is no job {job_id!r}; see `smolora-client jobs`.")
    return _job(row)


def _by_request(db: sqlite3.Connection, request_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(SQL["job_by_request"], {"request_id": request_id}).fetchone()
    return row


def _append(db: sqlite3.Connection, job_id: str, body: EventBody) -> JobEvent:
    row = db.execute(SQL["next_sequence"], {"id": job_id}).fetchone()
    if row is None:
        raise NotFound(f"There is no job {job_id!r}; see `smolora-client jobs`.")
    event = JobEvent(job_id, row[0], _now(), body)
    values = {
        "job_id": job_id,
        "sequence": event.sequence,
        "time": event.time.isoformat(),
        "kind": _KIND_OF[type(body)],
        "body": to_json(body),
    }
    db.execute(SQL["add_event"], values)
    return event


def _columns(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "start_time": job.start_time.isoformat() if job.start_time else None,
        "end_time": job.end_time.isoformat() if job.end_time else None,
        "attempts": job.attempts,
        "error": to_json(job.error) if job.error else None,
        "result": job.result,
    }


def _job(row: sqlite3.Row) -> Job:
    try:
        return _read_job(msgspec.convert(dict(row), _Row))
    except (Damaged, msgspec.ValidationError, ValueError, TypeError, LookupError) as error:
        raise Damaged(
            f"The record of job {row['id']} in the daemon's database cannot be read ({error}); start its work again."
        ) from error


def _read_job(row: _Row) -> Job:
    kind = JobKind(row.kind)
    return Job(
        id=row.id,
        kind=kind,
        state=JobState(row.state),
        target=row.target,
        spec=from_json(SPEC_OF[kind], row.spec),
        create_time=datetime.fromisoformat(row.create_time),
        start_time=_time(row.start_time),
        end_time=_time(row.end_time),
        last_sequence=row.last_sequence,
        attempts=row.attempts,
        error=from_json(JobError, row.error) if row.error else None,
        result=row.result,
        progress=from_json(TrainProgress, row.progress) if row.progress else None,
        request_id=row.request_id,
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _event(row: sqlite3.Row) -> JobEvent:
    try:
        body: EventBody = from_json(EVENT_KINDS[row["kind"]], row["body"])
        return JobEvent(row["job_id"], row["sequence"], datetime.fromisoformat(row["time"]), body)
    except (Damaged, ValueError, TypeError, LookupError) as error:
        # Its number stays, so that followers of the job continue after it.
        log.warning("unreadable event of a job", job=row["job_id"], sequence=row["sequence"], why=error)
        return JobEvent(row["job_id"], row["sequence"], _now(), Note("An event of this job cannot be read any more."))
