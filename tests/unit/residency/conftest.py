"""A residency over a real database, with scripted engines and workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from smolorad.config import Settings
from smolorad.domain import Adapter, GenerateOutcome, GenerateSpec, LoraSettings, Origin, ResidentModel
from smolorad.residency import EngineState, LoadRequest, Residency, Resolver, recovery
from smolorad.store.database import Database
from smolorad.store.library import Library
from tests.fake_engine import FINGERPRINT, FakeEngine, Reached, Script, Step, Wait
from tests.fake_workers import FakeWorkers

T = TypeVar("T")

X, Y = "owner/x", "owner/y"


@dataclass
class Gate:
    """A step of a script that says that it is reached, then waits."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def steps(self) -> list[Step]:
        """For a script."""
        return [Reached(self.reached), Wait(self.opened)]


@dataclass
class Desk:
    """A residency and what stands behind it."""

    script: Script
    engines: list[FakeEngine]
    library: Library
    residency: Residency
    resolver: Resolver

    async def load(self, model: str = "", **more: Any) -> ResidentModel:
        """Loads a model as a client does."""
        *_, last = [event async for event in self.residency.load(LoadRequest(model, **more))]
        assert isinstance(last, ResidentModel)
        return last

    async def generate(self, model: str = "", **more: Any) -> tuple[str, str]:
        """The model of the lease, and the one that the engine answered with."""
        async with self.residency.lease(model, **more) as lease:
            async for event in lease.engine.generate(GenerateSpec("a"), None):
                if isinstance(event, GenerateOutcome):
                    return lease.model.name, event.model
        raise AssertionError("no outcome")

    def gated_load(self) -> Gate:
        """The next load waits at a gate."""
        gate = Gate()
        self.script.loads.append(gate.steps)
        return gate

    def gated_answer(self) -> Gate:
        """The next generation waits at a gate."""
        gate = Gate()
        self.script.answers.append(gate.steps)
        return gate

    def gated_drain(self) -> Gate:
        """The next engine that ends waits at a gate."""
        gate = Gate()
        self.script.drains.append(gate.steps)
        return gate

    @property
    def model(self) -> str:
        """The name of the loaded model; empty where there is none."""
        return self.residency.resident.name if self.residency.resident else ""

    @property
    def loads(self) -> list[str]:
        """The models that engines were asked to load, in order."""
        return [details[1] for name, details in self.script.calls if name == "load"]  # type: ignore[index]

    async def engine_lost(self) -> None:
        """Returns when the daemon knows that the newest engine has died."""
        engine = self.engines[-1]
        async with asyncio.timeout(10):
            while self.residency.engine is engine:  # noqa: ASYNC110, no event says so
                await asyncio.sleep(0)

    async def settled(self) -> None:
        """Returns when no model is being loaded, unloaded or brought back."""
        await within(self.residency._settled(None))


async def within(work: Awaitable[T]) -> T:
    """What the work gives; it must not hang."""
    async with asyncio.timeout(10):
        return await work


def start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """The work as a task, which a test awaits within a limit."""
    return asyncio.create_task(within(work))


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """A residency with nothing loaded."""
    monkeypatch.setattr(recovery, "BACKOFF_S", (0.0,) * len(recovery.BACKOFF_S))
    script, engines = Script(), list[FakeEngine]()

    async def start_engine() -> FakeEngine:
        engines.append(FakeEngine(script))
        return engines[-1]

    settings = Settings.load((), {"SMOLORA_HOME": str(tmp_path / "home")}, tmp_path / "none.toml")
    settings.places.create()
    async with Database.open(settings.places.database) as database:
        library = Library(database)
        resolver = Resolver(library, FakeWorkers(script), tmp_path / "cache")
        desk = Desk(script, engines, library, Residency(settings, library, resolver, start_engine), resolver)
        yield desk
        await within(desk.residency.close(0.0))
        assert desk.residency.state is EngineState.OFF


@pytest.fixture
def adapter() -> Adapter:
    """An adapter of every model that a fake engine loads."""
    return Adapter(
        name="a",
        revision=1,
        create_time=datetime.now(UTC),
        origin=Origin.TRAIN,
        base_model=X,
        base_fingerprint=FINGERPRINT,
        dataset="",
        job_id="",
        lora=LoraSettings(),
        trainer=None,
        steps=1,
        train_loss=0.0,
        eval_loss_before=None,
        eval_loss_after=None,
        parameters=1,
        size_bytes=1,
        path="/nowhere",
    )
