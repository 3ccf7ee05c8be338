"""Residency: which model is loaded, for how long, and which requests wait for it.

One load at a time, one change of the engine at a time. A load continues when its client has gone: another request may need the
model. While the engine restarts, requests wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from smolorad.children.engine import Engine, EngineFactory, Pong
from smolorad.config import Settings
from smolorad.domain import Adapter, LoadEstimate, LoadProgress, ResidentModel
from smolorad.errors import BadState, EngineUnavailable, NoModel, SmoloraError
from smolorad.log import Log
from smolorad.residency.keep_alive import KeepAlive
from smolorad.residency.lease import LeaseCount, ModelLease
from smolorad.residency.loads import Loads
from smolorad.residency.recovery import Recovery
from smolorad.residency.requests import LoadHistory, LoadRequest
from smolorad.residency.resident import Loader, Resident
from smolorad.residency.resolver import Base, Resolver, no_progress
from smolorad.residency.supervisor import Supervisor
from smolorad.residency.tasks import BackgroundTasks
from smolorad.store.library import Library

log = Log(__name__)

WAIT_S = 20.0  # how long a generation waits for a model that is being loaded
UNLOAD_WAIT_S = 10.0  # how long an unload waits for the generations under way


class EngineState(enum.StrEnum):
    """What the engine does."""

    OFF = "off"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"


class Residency:
    """Loads, keeps and unloads the model, and lends it to requests."""

    def __init__(self, settings: Settings, library: Library, resolver: Resolver, factory: EngineFactory) -> None:
        self._settings = settings
        self._resolver = resolver
        self._history = LoadHistory(library)
        self._tasks = BackgroundTasks()
        self._supervisor = Supervisor(factory, settings.stall_s, self._engine_lost)
        self._loader = Loader(self._supervisor, self._history, self._count_down)
        self._keep_alive = KeepAlive(self._expired)
        self._leases = LeaseCount()
        self._changing = asyncio.Lock()  # one change of the engine at a time
        self._recovery = Recovery(self._loader, self._changing, self._tasks)
        self._loads = Loads(
            settings,
            resolver,
            history=self._history,
            loader=self._loader,
            leases=self._leases,
            recovery=self._recovery,
            changing=self._changing,
            tasks=self._tasks,
        )

    # --- state

    @property
    def resident(self) -> ResidentModel | None:
        """The loaded model."""
        return self._loader.resident.model if self._loader.resident else None

    @property
    def base(self) -> Base | None:
        """The loaded model's files."""
        return self._loader.resident.base if self._loader.resident else None

    def uses(self, name: str) -> bool:
        """Whether a model is loaded, is being loaded, or is brought back."""
        resident = self._loader.resident
        return name in (resident.model.name if resident else "", self._loads.model, self._recovery.model)

    @property
    def state(self) -> EngineState:
        """What the engine does."""
        if self._recovery.under_way:
            return EngineState.RESTARTING
        if self._loads.under_way:
            return EngineState.LOADING
        return EngineState.READY if self._loader.resident else EngineState.OFF

    @property
    def engine(self) -> Engine | None:
        """The running engine, if there is one."""
        return self._supervisor.engine

    @property
    def restarts(self) -> int:
        """How often the engine died."""
        return self._supervisor.restarts

    def unload_time(self) -> datetime | None:
        """When the model is unloaded if no request comes."""
        return self._keep_alive.due() if self._loader.resident else None

    async def choose(self, reference: str = "") -> str:
        """The model that a reference means; an empty one: the loaded model, else the last one, else the default."""
        return await self._loads.choose(reference)

    # --- load, unload

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadProgress | LoadEstimate | ResidentModel, None]:
        """Loads a model: progress and what it takes, then the model. The one before stays until the new one is ready.

        Raises BadState while a training runs, and what finding and loading a model raises.
        """
        queue: asyncio.Queue[LoadProgress | LoadEstimate | None] = asyncio.Queue()
        task = self._loads.start(request, queue.put_nowait)
        task.add_done_callback(lambda _: queue.put_nowait(None))
        while (progress := await queue.get()) is not None:
            yield progress
        yield await self._loads.result(task)

    async def estimate(self, request: LoadRequest) -> LoadEstimate:
        """What a load would take. It changes nothing, and disturbs neither the loaded model nor a training.

        Raises NotFound for a model that is not on this machine, and what loading it raises before it reads weights.
        """
        request = request.with_defaults(await self.choose(request.model), self._settings)
        return await self._resolver.estimate(request.model, request.placing, self.resident)

    def start_preload(self) -> None:
        """Starts to load the model that was loaded when the daemon ended; a failure is logged."""
        if self._settings.preload:
            self._tasks.spawn(self._preload())

    async def unload(self) -> str:
        """Ends the engine, once the generations under way have ended; returns the name of the model that was loaded.

        Cancels the loads under way. Does not wait for cancelled calls, nor for steps that take longer than `stall_s`.
        Raises BadState while a training runs, or where generations take long.
        """
        self._leases.refuse_while_training("unload the model", self.resident)
        held_up = self._is_held_up(await self._supervisor.pong())
        self._recovery.cancel()
        loads = self._loads.cancel()
        if loads and not self._leases.active:
            name = await self._tasks.finish(self._unload())  # at once: a cancelled load waits for its engine
            await asyncio.wait(loads)
            return name
        unloaded = await self._tasks.finish(self._unload_when_idle(0.0 if held_up else UNLOAD_WAIT_S))
        if unloaded is not None:
            return unloaded
        if not self._is_held_up(await self._supervisor.pong()):
            raise BadState("Generations are still under way; try again when they have ended, or cancel them.")
        self._leases.refuse_while_training("unload the model", self.resident)
        return await self._tasks.finish(self._unload())

    def _is_held_up(self, pong: Pong | None) -> bool:
        """Whether the engine is stuck: in a cancelled call, in one step, or without an answer."""
        return pong is None or pong.stuck_s > 0 or pong.busy_s >= self._settings.stall_s

    async def close(self, grace_s: float) -> None:
        """Ends all of it; a training checkpoints within the grace."""
        self._keep_alive.stop()
        self._tasks.close()
        self._loader.resident = None
        await self._supervisor.end(grace_s=grace_s)  # first: a task may wait for an engine that is stuck
        await self._tasks.wait()
        await self._supervisor.end(grace_s=grace_s)  # it may have been starting

    # --- use

    @contextlib.asynccontextmanager
    async def lease(
        self, reference: str = "", *, keep_alive: timedelta | None = None, training: bool = False
    ) -> AsyncIterator[ModelLease]:
        """Lends the loaded model, and loads one first if none is loaded; it is not unloaded while it is lent.

        A training loads its base in place of another model. Raises NoModel where no model was ever loaded and none is named,
        NotFound where there is no such model, BadState where another one is loaded, EngineUnavailable where loading takes long.
        """
        resident = await self._present(reference, training)
        self._keep_alive.stop()
        try:
            with self._leases.counted(training=training):
                try:
                    yield ModelLease(resident.engine, resident.model, resident.base)
                except EngineUnavailable:
                    # The socket closes before the process has ended: without this, the next request meets the dead engine.
                    await self._supervisor.forget(resident.engine)
                    raise
        finally:
            current = self._loader.resident
            if keep_alive is not None and current is not None and current.model.name == resident.model.name:
                self._loader.resident = current.kept_alive(keep_alive)
            self._count_down()

    def expect_training(self) -> None:
        """Prepares the engine for a training that is likely to follow, on the model that is loaded or being loaded."""
        self._tasks.spawn(self._expect_training())

    async def attach(self, adapter: Adapter) -> None:
        """Loads an adapter of the loaded base into the engine. Does nothing for another base, or while that changes."""
        resident = self._loader.resident
        if resident is None or self._changing.locked() or resident.model.fingerprint != adapter.base_fingerprint:
            return
        await resident.engine.attach(str(adapter.ref), Path(adapter.path))

    async def detach(self, keys: Sequence[str]) -> None:
        """Removes adapters from the engine's memory."""
        if (resident := self._loader.resident) is not None:
            for key in keys:
                await resident.engine.detach(key)

    async def _expect_training(self) -> None:
        if self._loader.resident is None and self._is_busy():
            await self._settled(WAIT_S)
        if self._loader.resident is not None and not self._leases.training:
            await self._loader.resident.engine.expect_training()

    async def _preload(self) -> None:
        if (request := await self._history.loaded()) is None:
            return
        try:
            await self._loads.result(self._loads.start(request, no_progress, replace=False))
        except SmoloraError as error:
            log.warning("cannot load the model of the last run", reason=error.reason, why=error.message)

    async def _present(self, reference: str, training: bool) -> Resident:
        """The loaded model, if it is the one that is asked for; loads it where none is loaded, or for a training."""
        while True:
            self._tasks.check_open()
            resident = self._loader.resident
            if resident is not None and self._changing.locked():
                # The engine is busy with a load: it would serve what is sent now with the new model.
                async with self._changing:
                    continue
            if resident is not None and reference in ("", resident.model.name):
                return resident
            if resident is not None and not training:
                await self._resolver.check(reference)  # NotFound, if there is no such model to load first
                raise BadState(
                    f"{resident.model.name} is loaded, not {reference}; "
                    f"type `smolora-client load {reference}` first, or name no model."
                )
            if resident is None and self._is_busy():
                await self._settled(None if training else WAIT_S)
                continue
            request = await self._implied_request(reference, training)
            await self._loads.result(self._loads.start(request, no_progress, replace=training))

    async def _implied_request(self, reference: str, training: bool) -> LoadRequest:
        """How to load the model that a generation or a training needs: as the last time, if it is the last one."""
        last = await self._history.last()
        if last.model and reference in ("", last.model):
            return last
        model = reference or (self._settings.default_model if training else "")
        if not model:
            raise NoModel("No model is loaded. Type `smolora-client load starter`, or name another one.")
        return LoadRequest(model)

    def _is_busy(self) -> bool:
        return self._recovery.under_way or self._loads.under_way or self._changing.locked()

    async def _settled(self, limit_s: float | None) -> None:
        """Waits until no model is being loaded, unloaded or brought back."""
        try:
            async with asyncio.timeout(limit_s):
                await self._recovery.wait()
                async with self._loads.one_at_a_time, self._changing:
                    return
        except TimeoutError:
            raise EngineUnavailable("The model is still being loaded; try again in a moment.") from None

    def _count_down(self) -> None:
        if (resident := self._loader.resident) is not None and not self._leases.active and not self._tasks.closing:
            keep_alive = resident.request.keep_alive
            self._keep_alive.start(self._settings.keep_alive if keep_alive is None else keep_alive)

    def _expired(self) -> None:
        self._tasks.spawn(self._unload_idle())

    async def _unload_idle(self) -> None:
        async with self._changing:
            if self._loader.resident is not None and not self._leases.active and self._keep_alive.expired:
                log.info("unloading idle model", model=self._loader.resident.model.name)
                await self._unload()

    async def _unload_when_idle(self, limit_s: float) -> str | None:
        """Unloads once no request uses the model; None where that takes longer than the limit."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._leases.idle.wait()
            except TimeoutError:
                return None
            async with self._changing:
                self._leases.refuse_while_training("unload the model", self.resident)
                if not self._leases.active:  # none has come while this waited
                    return await self._unload()

    async def _unload(self) -> str:
        resident, self._loader.resident = self._loader.resident, None
        self._keep_alive.stop()
        # The note comes before the engine's end: a load that starts meanwhile must not be noted first.
        running = self._supervisor.detach()
        try:
            await self._history.set_unloaded()
        finally:
            await self._supervisor.finish(running)
        return resident.model.name if resident else ""

    def _engine_lost(self) -> None:
        lost, self._loader.resident = self._loader.resident, None
        self._keep_alive.stop()
        if lost is not None and not self._tasks.closing:
            self._recovery.start(lost)
