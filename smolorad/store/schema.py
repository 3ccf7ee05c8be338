"""The tables, as numbered steps: a step that was released is never changed, a new one is added below it."""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number        INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of jobs; clocks jump
        id            TEXT NOT NULL UNIQUE,
        kind          TEXT NOT NULL,
        state         TEXT NOT NULL,
        target        TEXT NOT NULL,
        spec          TEXT NOT NULL,                      -- JSON of the spec of that kind
        request_id    TEXT NOT NULL,
        create_time   TEXT NOT NULL,                      -- ISO 8601, UTC
        start_time    TEXT,
        end_time      TEXT,
        last_sequence INTEGER NOT NULL DEFAULT 0,
        attempts      INTEGER NOT NULL DEFAULT 0,
        error         TEXT,                               -- JSON of JobError
        result        TEXT NOT NULL DEFAULT '',
        progress      TEXT                                -- JSON of TrainProgress
    );
    CREATE UNIQUE INDEX jobs_by_request ON jobs (request_id) WHERE request_id <> '';
    CREATE INDEX jobs_by_state ON jobs (state);

    CREATE TABLE events (
        job_id   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        sequence INTEGER NOT NULL,                        -- from 1 within the job, without gaps
        time     TEXT NOT NULL,
        kind     TEXT NOT NULL,                           -- a key of domain.EVENT_KINDS
        body     TEXT NOT NULL,                           -- JSON
        PRIMARY KEY (job_id, sequence)
    ) WITHOUT ROWID;

    CREATE TABLE library (
        number   INTEGER PRIMARY KEY AUTOINCREMENT,       -- the order of publishing
        kind     TEXT NOT NULL,                           -- dataset, adapter, model
        name     TEXT NOT NULL,
        revision INTEGER NOT NULL,                        -- 0 for models, which have none
        job_id   TEXT NOT NULL,
        record   TEXT NOT NULL,                           -- JSON of the domain's value
        UNIQUE (kind, name, revision)
    );
    CREATE INDEX library_by_job ON library (job_id);

    CREATE TABLE revisions (                              -- the highest ever given, so that a removed one is not given again
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (kind, name)
    ) WITHOUT ROWID;

    CREATE TABLE memory (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
)
