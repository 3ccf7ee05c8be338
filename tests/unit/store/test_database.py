"""Transactions, crashes, full disks and schemas of other versions."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from smolorad.errors import BadState, Damaged, Internal, NoSpace
from smolorad.store import database as database_module
from smolorad.store.database import Database
from smolorad.store.queries import SQL
from smolorad.store.schema import MIGRATIONS


def remember(db: sqlite3.Connection, value: str) -> None:
    """Writes one row."""
    db.execute(SQL["remember"], {"key": "k", "value": value})


def recall(db: sqlite3.Connection) -> str | None:
    """Reads it."""
    row = db.execute(SQL["recall"], {"key": "k"}).fetchone()
    return None if row is None else str(row["value"])


async def test_what_raises_leaves_nothing(database: Database) -> None:
    def work(db: sqlite3.Connection) -> None:
        remember(db, "half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.run(work)
    assert await database.run(recall) is None
    await database.run(lambda db: remember(db, "whole"))
    assert await database.run(recall) == "whole"


async def test_a_full_disk_is_said_and_survived(database: Database) -> None:
    pages = await database.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await database.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(NoSpace, match="make room"):
        await database.run(lambda db: remember(db, "x" * 1_000_000))
    await database.run(lambda db: db.execute("PRAGMA max_page_count = 1000000"))
    await database.run(lambda db: remember(db, "x" * 1_000_000))
    assert len(await database.run(recall) or "") == 1_000_000


async def test_a_statement_that_is_wrong_is_our_bug(database: Database) -> None:
    with pytest.raises(Internal, match="syntax error"):
        await database.run(lambda db: db.execute("SELEC 1"))


async def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, signal
from pathlib import Path
from smolorad.store import database as database_module
from smolorad.store.database import Database
from tests.unit.store.test_database import remember

async def main():
    async with Database.open(Path({str(tmp_path / "x.db")!r})) as database:
        await database.run(lambda db: remember(db, "kept"))
        def die(db):
            remember(db, "lost")
            os.kill(os.getpid(), signal.SIGKILL)
        await database.run(die)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    async with Database.open(tmp_path / "x.db") as database:
        assert await database.run(recall) == "kept"


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    async with Database.open(path):
        pass
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    with pytest.raises(BadState, match="newer smolorad"):
        async with Database.open(path):
            pass
    assert list(tmp_path.glob("*damaged*")) == []


async def test_each_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    for number in (1, 2):
        path.write_bytes(b"nothing of the kind " * 500)
        async with Database.open(path) as database:
            await database.run(lambda db: remember(db, "fresh"))
        assert path.with_name(f"x.db.damaged-{number}").exists()


async def test_an_empty_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.db"
    path.touch()
    async with Database.open(path) as database:
        await database.run(lambda db: remember(db, "fresh"))
    assert "its jobs are lost" in caplog.text


async def made(path: Path) -> None:
    """A database with one row."""
    async with Database.open(path) as database:
        await database.run(lambda db: remember(db, "kept"))


def changed(path: Path, *statements: str) -> None:
    """Does something to it that smolora would not do."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        for statement in statements:
            raw.execute(statement)


@pytest.mark.parametrize("version", [0, -3])
async def test_a_lost_schema_number_loses_nothing(tmp_path: Path, version: int) -> None:
    await made(path := tmp_path / "x.db")
    changed(path, f"PRAGMA user_version = {version}")
    async with Database.open(path) as database:
        assert await database.run(recall) == "kept"
    assert list(tmp_path.glob("*damaged*")) == []


@pytest.mark.parametrize("table", ["jobs", "events", "library", "revisions"])
async def test_a_lost_table_is_made_anew_and_the_others_stay(
    tmp_path: Path, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    await made(path := tmp_path / "x.db")
    changed(path, "PRAGMA foreign_keys = OFF", f"DROP TABLE {table}", "PRAGMA user_version = 0")
    async with Database.open(path) as database:
        assert await database.run(recall) == "kept"
        assert await database.run(lambda db: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) == 0
    assert "database had lost a table" in caplog.text


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE jobs DROP COLUMN result",),
        ("DROP TABLE memory", "CREATE TABLE memory (other)"),
        ("DROP TABLE memory", "CREATE VIEW memory AS SELECT 1"),
    ],
)
async def test_tables_of_another_shape_are_put_aside(tmp_path: Path, statements: tuple[str, ...]) -> None:
    await made(path := tmp_path / "x.db")
    changed(path, *statements)
    async with Database.open(path) as database:
        assert await database.run(recall) is None
    assert (tmp_path / "x.db.damaged-1").exists()


def test_every_statement_compiles() -> None:
    assert len(SQL) > 20
    with sqlite3.connect(":memory:") as db:
        for step in MIGRATIONS:
            db.executescript(step)
        for text in SQL.values():
            names = {word.rstrip(",;)")[1:] for word in text.replace("(", " ").split() if word.startswith(":")}
            db.execute(f"EXPLAIN {text}", dict.fromkeys(names))
    db.close()


async def test_a_first_start_on_a_full_disk_leaves_no_empty_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look as if the jobs in it had been lost."""

    def full(connection: sqlite3.Connection, path: Path) -> None:
        connection.execute("PRAGMA max_page_count = 2")
        migrate(connection, path)

    migrate = database_module._migrate
    path = tmp_path / "smolora.db"
    with monkeypatch.context() as patched:
        patched.setattr(database_module, "_migrate", full)
        with pytest.raises(NoSpace):
            async with Database.open(path):
                pass
    assert list(tmp_path.iterdir()) == []
    async with Database.open(path):
        pass
    path.write_bytes(b"")
    with monkeypatch.context() as patched:
        patched.setattr(database_module, "_migrate", full)
        with pytest.raises(NoSpace):
            async with Database.open(path):
                pass
    assert path.exists()


async def test_a_table_that_is_lost_under_the_daemon_is_made_anew_by_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "smolora.db"
    async with Database.open(path) as database:
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE library")
        with pytest.raises(Damaged, match="restart the daemon"):
            await database.run(lambda db: db.execute(SQL["places"]).fetchall())
    async with Database.open(path) as database:
        assert await database.run(lambda db: db.execute(SQL["places"]).fetchall()) == []
