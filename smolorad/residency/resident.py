"""The loaded model, and the loader that puts it into the engine."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from smolorad.children.engine import Engine
from smolorad.domain import ResidentModel
from smolorad.errors import Damaged, EngineUnavailable, SmoloraError
from smolorad.residency.requests import LoadHistory, LoadRequest
from smolorad.residency.resolver import Base, OnLoadEvent
from smolorad.residency.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Resident:
    """The loaded model, and what it takes to load it again."""

    engine: Engine
    model: ResidentModel
    base: Base
    request: LoadRequest

    def satisfies(self, request: LoadRequest) -> bool:
        """Whether a request asks for this model, as it is loaded."""
        return (
            request.model == self.model.name
            and request.device in (None, self.model.device)
            and request.dtype in (None, self.model.dtype)
            and request.precision in (None, self.model.precision)
            and request.kv_dtype in (None, self.model.kv_dtype)
        )

    def kept_alive(self, keep_alive: timedelta) -> Resident:
        """The same, with another time to stay loaded while it is unused."""
        return dataclasses.replace(self, request=dataclasses.replace(self.request, keep_alive=keep_alive))


class Loader:
    """Loads models into the engine, and knows which one is loaded. The caller loads one at a time."""

    def __init__(self, supervisor: Supervisor, history: LoadHistory, touch: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._history = history
        self.touch = touch  # starts the time that the model stays loaded unused; called after each load
        self.resident: Resident | None = None
        self.ready_at = 0.0  # when the last load ended, on the monotonic clock

    async def load(self, base: Base, request: LoadRequest, on_progress: OnLoadEvent) -> Resident:
        """Loads a base in place of the one before, which stays if that fails; an engine without a model is ended.

        Raises Damaged where the weights are not the published ones: then no model is loaded.
        """
        engine = await self._supervisor.started()
        try:
            model = await self._read(engine, base, request, on_progress)
        except EngineUnavailable:
            await self._supervisor.forget(engine)
            raise
        except SmoloraError:
            if self.resident is None:
                await self._supervisor.end()
            raise
        self.resident = resident = Resident(engine, model, base, request)
        self.ready_at = time.monotonic()
        await self._history.set_loaded(request)
        await self._history.set_last(dataclasses.replace(request, model=model.name))
        self.touch()
        return resident

    async def load_again_if_stuck(self, base: Base, request: LoadRequest, on_progress: OnLoadEvent) -> Resident:
        """As `load`; on a new engine if the old one was killed because it did not come back from a cancelled call."""
        try:
            return await self.load(base, request, on_progress)
        except EngineUnavailable:
            if not self._supervisor.was_stuck:
                raise
        return await self.load(base, request, on_progress)

    async def _read(self, engine: Engine, base: Base, request: LoadRequest, on_progress: OnLoadEvent) -> ResidentModel:
        model = None
        events = engine.load(base.path, base.name, request.placing, base.trust_remote_code)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, ResidentModel):
                    model = event
                else:
                    on_progress(event)
        if model is None or self._supervisor.engine is not engine:  # it died, or was ended, right after its last event
            raise EngineUnavailable("The engine ended while it loaded the model; try again.")
        if base.fingerprint and model.fingerprint != base.fingerprint:
            self.resident = None  # the engine has replaced the old weights already
            await self._supervisor.end()
            raise Damaged(f"The weights of {base.name} are not as they were published; delete it and make it again.")
        return model
