"""The tables, as numbered steps: a step that was released is never changed, a new one is added below it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping

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

# Tables before their indexes; without SQLite's own.
_STATEMENTS = """
    SELECT type, name, sql FROM sqlite_master
    WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY type DESC
"""


def version_of(connection: sqlite3.Connection) -> int:
    """The number of the newest step whose tables and columns are all there; 0 where there are none."""
    there = _columns(connection)
    for version in range(len(MIGRATIONS), 0, -1):
        with _made(version) as expected:
            if all(columns <= there.get(table, frozenset()) for table, columns in _columns(expected).items()):
                return version
    # Some of them are there: the newest, of which `repair` makes the rest.
    with _made(len(MIGRATIONS)) as expected:
        return len(MIGRATIONS) if there.keys() & _columns(expected).keys() else 0


def repair(connection: sqlite3.Connection) -> list[str]:
    """Makes the tables and indexes that are lost, empty; returns the tables' names.

    Raises sqlite3.DatabaseError where one has not the columns that it should have.
    """
    lost = []
    with _made(len(MIGRATIONS)) as expected:
        there, wanted = _columns(connection), _columns(expected)
        rows = expected.execute(_STATEMENTS).fetchall()
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    for kind, name, statement in rows:
        if kind == "table" and name in there and not wanted[name] <= there[name]:
            raise sqlite3.DatabaseError(f"the table {name} has not its columns")
        if name not in (there if kind == "table" else names):
            connection.execute(statement)
            lost += [name] if kind == "table" else []
    return lost


def _made(version: int) -> contextlib.closing[sqlite3.Connection]:
    """A database in memory with the first steps."""
    connection = sqlite3.connect(":memory:")
    connection.executescript("\n".join(MIGRATIONS[:version]))
    return contextlib.closing(connection)


def _columns(connection: sqlite3.Connection) -> Mapping[str, frozenset[str]]:
    """The columns of every table of smolora, by its name."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    tables = [name for name in names if not name.startswith("sqlite_")]
    return {
        name: frozenset(row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (name,)))
        for name in tables
    }
