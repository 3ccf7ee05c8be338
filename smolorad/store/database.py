"""One SQLite file, one thread that writes it, one transaction a call."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from smolorad.errors import BadState, Damaged, Internal, NoSpace, is_disk_full
from smolorad.log import Log
from smolorad.store.schema import MIGRATIONS

log = Log(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0


class CannotWrite(Internal):
    """SQLite refuses for now: another process has the file, or the disk fails. Trying again may help."""


class Database:
    """The daemon's SQLite file.

    Every access goes through one thread, so statements never interleave and the event loop never waits for the disk.
    A commit returns when it is on the disk (`synchronous=FULL`): what a client was told survives a power cut.
    """

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Database]:
        """The database at a path, made or migrated as needed.

        A damaged file is put aside as `NAME.damaged-N` and a fresh one begun. Raises BadState where a newer version of
        smolorad wrote it, NoSpace where the disk is full.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        loop = asyncio.get_running_loop()
        connection = await loop.run_in_executor(thread, _open, path)
        try:
            yield cls(connection, thread)
        finally:
            await loop.run_in_executor(thread, connection.close)
            thread.shutdown()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` as one transaction: all of it is kept, or, if it raises, nothing.

        Raises NoSpace where the disk is full, Damaged where the file is; otherwise what `work` raises. A caller that is
        cancelled meanwhile does not undo it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have rolled it back already
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise _explained(error) from error
        return result


def _explained(error: sqlite3.DatabaseError) -> Exception:
    if is_disk_full(error):
        return NoSpace("The disk is full, so nothing was changed; make room and try again.")
    if isinstance(error, sqlite3.OperationalError):
        return CannotWrite(f"The daemon's database refused a statement ({error}); please report it with the daemon's log.")
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return Internal(f"The daemon's database refused a statement ({error}); please report it with the daemon's log.")
    return Damaged("The daemon's database is damaged; restart the daemon, which puts it aside and rebuilds the lists.")


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.OperationalError as error:
        if is_disk_full(error):
            raise NoSpace(f"The disk is full, so {path} cannot be opened; make room and start again.") from error
        raise
    except sqlite3.DatabaseError as error:
        aside = _put_aside(path)
        log.error("the database was damaged and is put aside; the lists are rebuilt from the folders", aside=aside, why=error)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if sys.platform == "darwin":
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
        if (verdict := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(verdict)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings the schema up to date, in one transaction."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise BadState(
            f"{path} was written by a newer smolorad (schema {version}, and this one knows {len(MIGRATIONS)}); "
            "install that version again, or choose another place with SMOLORA_HOME."
        )
    if version == len(MIGRATIONS):
        return
    steps = "\n".join(MIGRATIONS[version:])
    connection.executescript(f"BEGIN IMMEDIATE;\n{steps}\nPRAGMA user_version = {len(MIGRATIONS)};\nCOMMIT;")


def _put_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside
