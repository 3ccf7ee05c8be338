"""Loads: the load requests, one after another; a load continues when its client has gone."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import timedelta

from smolorad.config import Settings
from smolorad.domain import ResidentModel
from smolorad.errors import Cancelled, Damaged
from smolorad.log import Log
from smolorad.residency.lease import LeaseCount
from smolorad.residency.recovery import Recovery
from smolorad.residency.requests import LoadHistory, LoadRequest
from smolorad.residency.resident import Loader, Resident
from smolorad.residency.resolver import Base, OnLoadEvent, Resolver
from smolorad.residency.tasks import BackgroundTasks

log = Log(__name__)


class Loads:
    """Finds models, and loads them unless they are loaded already."""

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver,
        *,
        history: LoadHistory,
        loader: Loader,
        leases: LeaseCount,
        recovery: Recovery,
        changing: asyncio.Lock,
        tasks: BackgroundTasks,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._history = history
        self._loader = loader
        self._leases = leases
        self._recovery = recovery
        self._changing = changing
        self._tasks = tasks
        self.model = ""  # the one that is being found or loaded
        self._running: set[asyncio.Task[ResidentModel]] = set()
        self.one_at_a_time = asyncio.Lock()  # a load's download included; taken before `changing`, never after it

    @property
    def under_way(self) -> bool:
        """Whether a model is being found or loaded."""
        return self.one_at_a_time.locked()

    def start(self, request: LoadRequest, on_progress: OnLoadEvent, *, replace: bool = True) -> asyncio.Task[ResidentModel]:
        """Starts a load, for `result`. Without `replace` it does nothing if a model is loaded by the time it is its turn."""
        task = self._tasks.spawn(self._load(request, on_progress, replace))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def result(self, task: asyncio.Task[ResidentModel]) -> ResidentModel:
        """A load's model. The load continues if the caller is cancelled; an unload and the daemon's end cancel it."""
        await asyncio.wait({task})
        if task.cancelled():
            self._tasks.check_open()
            raise Cancelled("The model was unloaded before it was loaded; load it again.")
        return task.result()

    def cancel(self) -> tuple[asyncio.Task[ResidentModel], ...]:
        """Cancels the loads under way, those that wait included, and returns them."""
        loads = tuple(self._running)
        for load in loads:
            load.cancel()
        return loads

    async def choose(self, reference: str) -> str:
        """The model that a reference means; an empty one: the loaded model, else the last one, else the default."""
        if reference:
            return reference
        if self._loader.resident is not None:
            return self._loader.resident.model.name
        return (await self._history.last()).model or self._settings.default_model

    async def _load(self, request: LoadRequest, on_progress: OnLoadEvent, replace: bool) -> ResidentModel:
        began = time.monotonic()
        if request.model:
            await self._resolver.check(request.model)  # what cannot be a model need not wait for another load
        async with self.one_at_a_time:
            if not replace and self._loader.resident is not None:
                return self._loader.resident.model
            request = request.with_defaults(await self.choose(request.model), self._settings)
            if (loaded := await self._already_loaded(request)) is not None:
                return await self._refreshed(loaded, request.keep_alive)
            self._refuse_while_training(request)
            model = await self._find_and_load(request, on_progress)
            took_s = round(time.monotonic() - began, 3)
            model = dataclasses.replace(model, load_s=took_s)
            if self._loader.resident is not None:
                self._loader.resident = dataclasses.replace(self._loader.resident, model=model)
        log.info("model loaded", model=model.name, device=model.device, dtype=model.dtype, seconds=took_s)
        return model

    async def _find_and_load(self, request: LoadRequest, on_progress: OnLoadEvent) -> ResidentModel:
        self.model = request.model
        try:
            base = await self._resolver.find(request.model, on_progress)
            async with self._changing:
                self._refuse_while_training(request)
                return await self._load_base(base, request, on_progress)
        finally:
            self.model = ""

    async def _load_base(self, base: Base, request: LoadRequest, on_progress: OnLoadEvent) -> ResidentModel:
        self._tasks.check_open()
        self._recovery.reset()
        before = self._loader.resident
        try:
            return (await self._loader.load_again_if_stuck(base, request, on_progress)).model
        except Damaged:
            if before is not None and self._loader.resident is None:
                self._recovery.start(before)
            raise

    async def _already_loaded(self, request: LoadRequest) -> Resident | None:
        """The loaded model, if it satisfies a request and its files are still the same."""
        resident = self._loader.resident
        if resident is None or not resident.satisfies(request) or await self._resolver.has_changed(resident.base):
            return None
        current = self._loader.resident  # it may have been unloaded meanwhile
        return current if current is not None and current.satisfies(request) else None

    async def _refreshed(self, resident: Resident, keep_alive: timedelta | None) -> ResidentModel:
        """The loaded model, with another time to stay loaded."""
        if keep_alive is not None:
            self._loader.resident = resident = resident.kept_alive(keep_alive)
            await self._history.set_loaded(resident.request)
        self._loader.touch()
        return resident.model

    def _refuse_while_training(self, request: LoadRequest) -> None:
        resident = self._loader.resident
        self._leases.refuse_while_training(f"load {request.model}", resident.model if resident else None)
