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

from smolorad.errors import BadState, Damaged, Internal, NoAccess, NoSpace, OutOfMemory, is_disk_full
from smolorad.log import Log
from smolorad.paths import check_own_file
from smolorad.store.schema import MIGRATIONS, repair, version_of

log = Log(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0


class CannotWrite(NoAccess):
    """SQLite refuses for now: permissions, another process that has the file, a failing disk. Trying again may help."""


class Database:
    """The daemon's SQLite file.

    Every access goes through one thread, so statements never interleave and the event loop never waits for the disk.
    A commit returns when it is on the disk (`synchronous=FULL`): what a client has seen survives a power cut.
    """

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Database]:
        """The database at a path, made or migrated as needed.

        A damaged file is put aside as `NAME.damaged-N` and replaced by a fresh one. Raises BadState where a newer version of
        smolorad wrote it, NoSpace where the disk is full, NoAccess where it cannot be opened, and InvalidRequest where it is
        no file of this user's.
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
            raise _to_smolora_error(error) from error
        return result


# Codes that say nothing about the file's contents: such a file must not be put aside.
_REFUSED = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
)


def _to_smolora_error(error: sqlite3.DatabaseError) -> Exception:
    match _code(error):
        case _ if is_disk_full(error):
            return NoSpace("The disk is full, so nothing was changed; make room and try again.")
        case code if code in _REFUSED:
            return CannotWrite(
                f"The daemon's database cannot be written ({error}), so nothing was changed; see to its permissions, its disk, "
                "and other programs that have it open."
            )
        case sqlite3.SQLITE_NOMEM:
            return OutOfMemory("Not enough memory for the daemon's database; end other programs and try again.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Damaged("The daemon's database is damaged; restart the daemon, which puts it aside and rebuilds the lists.")
    if "no such table" in str(error):  # lost under a running daemon; the next start makes it again
        return Damaged(f"The daemon's database has lost a table ({error}); restart the daemon, which repairs it.")
    return Internal(f"The daemon's database refused a statement ({error}); please report it with the daemon's log.")


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary code, without what its extended codes add; that of a plain error where Python itself refused."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _open(path: Path) -> sqlite3.Connection:
    check_own_file(path)
    is_new = not path.exists()
    if not is_new and not path.stat().st_size:
        log.error("database was empty: its jobs are lost; rebuilding the lists from the folders", database=path)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if is_new:  # half of one would look as if its jobs had been lost
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        if is_disk_full(error):
            raise NoSpace(f"The disk is full, so {path} cannot be opened; make room and start again.") from error
        if _code(error) in (*_REFUSED, sqlite3.SQLITE_NOMEM):
            raise NoAccess(
                f"{path} cannot be opened ({error}); see to its permissions, to the room on its disk, and to {path.name}-wal "
                "and -shm beside it."
            ) from error
        aside = _put_aside(path)
        log.error("database damaged and put aside; rebuilding the lists from the folders", aside=aside, why=error)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.text_factory = _text
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
    """Brings the schema up to date, and repairs it where it can; raises sqlite3.DatabaseError where it cannot."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise BadState(
            f"{path} was written by a newer smolorad (schema {version}, and this one knows {len(MIGRATIONS)}); "
            "install that version again, or choose another place with SMOLORA_HOME."
        )
    if version < 1 and (version := version_of(connection)):
        log.error("database had lost its schema number", database=path, schema=version)
        connection.execute(f"PRAGMA user_version = {version}")
    if version < len(MIGRATIONS):
        steps = "\n".join(MIGRATIONS[max(version, 0) :])
        connection.executescript(f"BEGIN IMMEDIATE;\n{steps}\nPRAGMA user_version = {len(MIGRATIONS)};\nCOMMIT;")
    for name in repair(connection):
        log.error("database had lost a table; it is empty now", database=path, table=name)


def _text(data: bytes) -> str:
    """A damaged text is shown as one, so that it spoils its own row alone."""
    return data.decode(errors="replace")


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
