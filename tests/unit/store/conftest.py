"""A database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smolorad.store.database import Database
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Fresh and open."""
    async with Database.open(tmp_path / "smolora.db") as opened:
        yield opened


@pytest.fixture
def jobs(database: Database) -> JobStore:
    """Its jobs."""
    return JobStore(database)


@pytest.fixture
def library(database: Database) -> Library:
    """Its lists."""
    return Library(database)
