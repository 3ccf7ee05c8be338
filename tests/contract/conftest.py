"""A started daemon for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smolorad.app import Backends
from tests.contract.house import House, settings_of
from tests.fake_engine import FakeEngine, Script
from tests.fake_workers import FakeWorkers


@pytest.fixture
def script() -> Script:
    """What the children do."""
    return Script()


@pytest.fixture
def engines() -> list[FakeEngine]:
    """The engines that were started, the newest last."""
    return []


@pytest.fixture
def backends(script: Script, engines: list[FakeEngine]) -> Backends:
    """Scripted children."""

    async def start() -> FakeEngine:
        engines.append(FakeEngine(script))
        return engines[-1]

    return Backends(start, FakeWorkers(script))


@pytest.fixture
async def house(short_path: Path, backends: Backends) -> AsyncIterator[House]:
    """A started daemon with its stubs."""
    house = await House(settings_of(short_path), backends).start()
    yield house
    assert await house.stop() == 0
