"""A disk that is full for the daemon's database: reads work, and every write fails as SQLite fails where there is no room."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from smolorad.jobs import run
from smolorad.store.database import Database

LOOK_S = 0.02
SAID = "The disk is full; it continues when there is room."  # to a watcher of a job that waits
_CODES = {
    "database or disk is full": sqlite3.SQLITE_FULL,
    "disk I/O error": sqlite3.SQLITE_IOERR,
    "database is locked": sqlite3.SQLITE_BUSY,
}


@dataclass
class FullDisk:
    """Full or not; `message` is what SQLite says to a write."""

    full: bool = False
    refused: int = 0
    message: str = "database or disk is full"
    writes_left: int = 0  # that still succeed on the full disk

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
        """Puts it below every database that is opened in this process; jobs look often whether there is room."""
        transact = Database._transact
        disk = self

        def limited(database: Database, work: Callable[[sqlite3.Connection], Any]) -> Any:
            return transact(database, lambda db: disk._refusing(db, work))

        monkeypatch.setattr(Database, "_transact", limited)
        monkeypatch.setattr(run, "LOOK_S", LOOK_S)
        return self

    def _refusing(self, db: sqlite3.Connection, work: Callable[[sqlite3.Connection], Any]) -> Any:
        before = db.total_changes
        result = work(db)
        if self.full and db.total_changes != before:
            if self.writes_left:
                self.writes_left -= 1
                return result
            self.refused += 1
            error = sqlite3.OperationalError(self.message)
            error.sqlite_errorcode = _CODES[self.message]
            raise error
        return result
