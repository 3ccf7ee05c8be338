"""Which base is loaded, until when, and who waits for it.

One load at a time, one change of the engine at a time. A load goes to its end also when its client has gone: an engine that
forgets half-way what it holds would hurt everybody else. While the engine restarts, those who ask wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from smolorad.children.engine import Engine, EngineFactory, Pong
from smolorad.config import Settings
from smolorad.domain import Adapter, Device, Dtype, LoadProgress, Placing, Precision, ResidentModel
from smolorad.errors import (
    BadState,
    Cancelled,
    Damaged,
    EngineUnavailable,
    NoModel,
    NoSpace,
    ShuttingDown,
    SmoloraError,
    WrongBase,
)
from smolorad.log import Log
from smolorad.residency.keep_alive import KeepAlive
from smolorad.residency.resolver import Base, Resolver, Tell
from smolorad.residency.supervisor import Supervisor
from smolorad.store.database import CannotWrite
from smolorad.store.library import Library

log = Log(__name__)

T = TypeVar("T")

WAIT_S = 20.0  # how long a generation waits for a model that is on its way
_UNLOAD_WAIT_S = 10.0  # how long an unloading waits for the generations under way
_BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)  # before each try to start a dead engine again
_CALM_S = 60.0  # an engine that lived this long starts the count of tries anew
_RESIDENT_KEY, _LAST_KEY = "model.resident", "model.last_wish"


_CLOSING = "The daemon is shutting down; start it again with `smolorad serve`."


class EngineState(enum.StrEnum):
    """What the engine does."""

    OFF = "off"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What somebody wants resident. None chooses, or takes the daemon's setting."""

    model: str = ""
    device: Device | None = None
    dtype: Dtype | None = None
    keep_alive: timedelta | None = None
    precision: Precision | None = None


@dataclass(frozen=True, slots=True)
class ModelLease:
    """The engine and the model in it, while they are in use."""

    engine: Engine
    model: ResidentModel

    def check_base(self, adapter: Adapter) -> None:
        """Raises WrongBase if the adapter was trained on another base."""
        if adapter.base_fingerprint and adapter.base_fingerprint != self.model.fingerprint:
            raise self._wrong_base(str(adapter.ref), adapter.base_model)

    def check_model(self, model: str, adapter: str) -> None:
        """Raises WrongBase if the model of an adapter, both by name, is not the one that is loaded."""
        if model != self.model.name:
            raise self._wrong_base(adapter, model)

    def _wrong_base(self, adapter: str, model: str) -> WrongBase:
        return WrongBase(
            f"The adapter {adapter} belongs to {model}, but {self.model.name} is loaded; "
            f"type `smolora-client load {model}` first."
        )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What is resident, and all it takes to load it again."""

    engine: Engine
    model: ResidentModel
    base: Base
    wish: LoadRequest

    def answers(self, wish: LoadRequest) -> bool:
        return (
            wish.model == self.model.name
            and wish.device in (None, self.model.device)
            and wish.dtype in (None, self.model.dtype)
            and wish.precision in (None, self.model.precision)
        )


class Residency:
    """The resident model's life."""

    def __init__(self, settings: Settings, library: Library, resolver: Resolver, factory: EngineFactory) -> None:
        self._settings = settings
        self._library = library
        self._resolver = resolver
        self._supervisor = Supervisor(factory, settings.stall_s, self._engine_lost)
        self._keep_alive = KeepAlive(self._expired)
        self._loading = asyncio.Lock()  # one load at a time, its download included
        self._changing = asyncio.Lock()  # one change of the engine at a time
        self._loaded: _Loaded | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loads: set[asyncio.Task[ResidentModel]] = set()  # of these, those that load a model
        self._idle = asyncio.Event()
        self._idle.set()
        self._active = 0
        self._training = 0
        self._tries = 0
        self._ready_at = 0.0
        self._closing = False

    # --- what is there

    @property
    def resident(self) -> ResidentModel | None:
        """The model in memory."""
        return self._loaded.model if self._loaded else None

    @property
    def base(self) -> Base | None:
        """Where the resident model's files are."""
        return self._loaded.base if self._loaded else None

    @property
    def state(self) -> EngineState:
        """What the engine does."""
        if self._recovery is not None:
            return EngineState.RESTARTING
        if self._loading.locked():
            return EngineState.LOADING
        return EngineState.READY if self._loaded else EngineState.OFF

    @property
    def engine(self) -> Engine | None:
        """The running engine, if there is one."""
        return self._supervisor.engine

    @property
    def restarts(self) -> int:
        """How often the engine died."""
        return self._supervisor.restarts

    def unload_time(self) -> datetime | None:
        """When the model goes, if nobody asks."""
        return self._keep_alive.due() if self._loaded else None

    async def choose(self, reference: str = "") -> str:
        """The reference itself, or what an empty one means: the resident model, the last one, the default."""
        return (
            reference
            or (self._loaded.model.name if self._loaded else "")
            or (await self._last()).model
            or self._settings.default_model
        )

    # --- load, unload

    async def load(self, wish: LoadRequest) -> AsyncGenerator[LoadProgress | ResidentModel, None]:
        """Makes a model resident: progress, then the model. The one before stays until the new one stands.

        Raises BadState while a training runs, and what finding and loading a model raises.
        """
        told: asyncio.Queue[LoadProgress | None] = asyncio.Queue()
        task = self._start_load(wish, told.put_nowait)
        task.add_done_callback(lambda _: told.put_nowait(None))
        while (progress := await told.get()) is not None:
            yield progress
        yield await self._result(task)

    def start_preload(self) -> None:
        """Begins to load the model that was resident when the daemon ended; the log says what keeps it from that."""
        if self._settings.preload:
            self._spawn(self._preload())

    async def unload(self) -> str:
        """Ends the engine, once the generations under way have ended; returns the name of what was resident.

        Loads under way are cancelled. Calls that were cancelled are not waited for, nor steps that take longer than `stall_s`.
        Raises BadState while a training runs, or where generations take long.
        """
        self._refuse_while_training("unload the model")
        pong = await self._supervisor.pong()
        if self._recovery is not None:
            self._recovery.cancel()
        if loads := tuple(self._loads):
            for load in loads:
                load.cancel()
            name: str = await _finished(self._spawn(self._unload()))  # they wait for the engine
            await asyncio.wait(loads)
            return name
        try:
            async with asyncio.timeout(0 if self._is_held_up(pong) else _UNLOAD_WAIT_S):
                await self._idle.wait()
        except TimeoutError:
            if not self._is_held_up(await self._supervisor.pong()):
                raise BadState("Generations are still under way; try again when they have ended, or cancel them.") from None
            return await _finished(self._spawn(self._unload()))
        return await _finished(self._spawn(self._unload_unless_training()))

    def _is_held_up(self, pong: Pong | None) -> bool:
        """Whether the engine does not come back from a cancelled call, or from one step, or does not answer at all."""
        return pong is None or pong.stuck_s > 0 or pong.busy_s >= self._settings.stall_s

    async def close(self, grace_s: float) -> None:
        """Ends everything: the engine checkpoints what trains within the grace."""
        self._closing = True
        self._keep_alive.stop()
        for task in tuple(self._tasks):
            task.cancel()
        self._loaded = None
        await self._supervisor.end(grace_s)  # first: a task may wait for an engine that is stuck
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._supervisor.end(grace_s)  # it may have been starting

    # --- use

    @contextlib.asynccontextmanager
    async def lease(
        self, reference: str = "", *, keep_alive: timedelta | None = None, training: bool = False
    ) -> AsyncIterator[ModelLease]:
        """The resident model, not to be unloaded meanwhile; loaded first where nothing is resident.

        A training loads its base in place of another one. Raises NoModel where nothing was ever loaded and none is named,
        NotFound where there is no such model, BadState where another one is resident, EngineUnavailable where it does not come
        in time.
        """
        loaded = await self._present(reference, training)
        self._active += 1
        self._training += training
        self._idle.clear()
        self._keep_alive.stop()
        try:
            yield ModelLease(loaded.engine, loaded.model)
        except EngineUnavailable:
            # Its socket closes before its exit status is there: without this, whoever tries again meets the dead engine.
            await self._supervisor.forget(loaded.engine)
            raise
        finally:
            self._active -= 1
            self._training -= training
            if self._active == 0:
                self._idle.set()
            if keep_alive is not None and self._loaded is not None:
                self._loaded = dataclasses.replace(
                    self._loaded, wish=dataclasses.replace(self._loaded.wish, keep_alive=keep_alive)
                )
            self._count_down()

    def expect_training(self) -> None:
        """A training on the resident model is likely to follow, or on the one that is being loaded."""
        self._spawn(self._expect_training())

    async def attach(self, adapter: Adapter) -> None:
        """Has an adapter of the resident base ready in memory; of another base it is left where it is."""
        loaded = self._loaded
        if loaded is not None and loaded.model.fingerprint == adapter.base_fingerprint:
            await loaded.engine.attach(str(adapter.ref), Path(adapter.path))

    async def detach(self, keys: Sequence[str]) -> None:
        """Forgets adapters that are in memory."""
        if self._loaded is not None:
            for key in keys:
                await self._loaded.engine.detach(key)

    # --- inside

    async def _expect_training(self) -> None:
        if self._loaded is None and self._is_busy():
            await self._settled(WAIT_S)
        if self._loaded is not None and not self._training:
            await self._loaded.engine.expect_training()

    async def _preload(self) -> None:
        if not (remembered := await self._library.recall(_RESIDENT_KEY)):
            return
        try:
            await self._result(self._start_load(_read_wish(remembered), _ignore))
        except SmoloraError as error:
            log.warning("the model of before was not loaded", reason=error.reason, why=error.message)

    async def _present(self, reference: str, training: bool) -> _Loaded:
        while True:
            self._refuse_when_closing()
            loaded = self._loaded
            if loaded is not None and reference in ("", loaded.model.name):
                return loaded
            if loaded is not None and not training:
                await self._resolver.check(reference)  # what is not there cannot be loaded first
                raise BadState(
                    f"{loaded.model.name} is loaded, not {reference}; "
                    f"type `smolora-client load {reference}` first, or name no model."
                )
            if loaded is None and self._is_busy():
                await self._settled(None if training else WAIT_S)
                continue
            wish = await self._last()
            if not wish.model or reference not in ("", wish.model):
                wish = LoadRequest(reference or (self._settings.default_model if training else ""))
            if not wish.model:
                raise NoModel("No model is loaded. Type `smolora-client load starter`, or name another one.")
            await self._result(self._start_load(wish, _ignore))

    def _is_busy(self) -> bool:
        return self._recovery is not None or self._loading.locked() or self._changing.locked()

    async def _settled(self, limit_s: float | None) -> None:
        """Waits until the engine is neither restarted nor loading."""
        try:
            async with asyncio.timeout(limit_s):
                if self._recovery is not None:
                    await asyncio.wait({self._recovery})
                async with self._loading, self._changing:
                    return
        except TimeoutError:
            raise EngineUnavailable("The model is still being loaded; try again in a moment.") from None

    async def _load(self, wish: LoadRequest, tell: Tell) -> ResidentModel:
        began = time.monotonic()
        async with self._loading:
            wish = dataclasses.replace(
                wish,
                model=await self.choose(wish.model),
                device=wish.device or self._settings.device,
                dtype=wish.dtype or self._settings.dtype,
                precision=wish.precision or self._settings.precision,
            )
            loaded = self._loaded
            if loaded is not None and loaded.answers(wish) and not await self._resolver.has_changed(loaded.base):
                return await self._refreshed(loaded, wish)
            self._refuse_while_training(f"load {wish.model}")
            base = await self._resolver.find(wish.model, tell)
            async with self._changing:
                self._refuse_while_training(f"load {wish.model}")
                self._tries = 0
                model = await self._take_anew(base, wish, tell)
            took_s = round(time.monotonic() - began, 3)
            model = dataclasses.replace(model, load_s=took_s)
            if self._loaded is not None:
                self._loaded = dataclasses.replace(self._loaded, model=model)
        log.info("model loaded", model=model.name, device=model.device, dtype=model.dtype, seconds=took_s)
        return model

    async def _take_anew(self, base: Base, wish: LoadRequest, tell: Tell) -> ResidentModel:
        """As `_take`; with another engine where the one before was killed over a call that it did not come back from."""
        try:
            return await self._take(base, wish, tell)
        except EngineUnavailable:
            if not self._supervisor.was_stuck:
                raise
        return await self._take(base, wish, tell)

    async def _take(self, base: Base, wish: LoadRequest, tell: Tell) -> ResidentModel:
        """Has the engine load a base, and remembers it. A failure leaves the old one, and ends an engine that holds nothing."""
        self._refuse_when_closing()
        engine = await self._supervisor.started()
        try:
            model = await self._read(engine, base, wish, tell)
        except EngineUnavailable:
            await self._supervisor.forget(engine)
            raise
        except SmoloraError:
            if self._loaded is None:
                await self._supervisor.end()
            raise
        self._loaded = _Loaded(engine, model, base, wish)
        self._ready_at = time.monotonic()
        await self._remember(_RESIDENT_KEY, _write_wish(wish))
        await self._remember(_LAST_KEY, _write_wish(dataclasses.replace(wish, model=model.name)))
        self._count_down()
        return model

    async def _read(self, engine: Engine, base: Base, wish: LoadRequest, tell: Tell) -> ResidentModel:
        before, model = self._loaded, None
        events = engine.load(base.path, base.name, _placing(wish), base.trust_remote_code)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, ResidentModel):
                    model = event
                else:
                    tell(event)
        if model is None:
            raise EngineUnavailable("The engine ended the loading without a result; try again.")
        if base.fingerprint and model.fingerprint != base.fingerprint:
            # The new weights have replaced the old ones already: end them both, and bring the old one back.
            self._loaded = None
            await self._supervisor.end()
            if before is not None:
                self._recovery = self._spawn(self._recover(before))
            raise Damaged(f"The weights of {base.name} are not as they were published; delete it and make it again.")
        return model

    async def _refreshed(self, loaded: _Loaded, wish: LoadRequest) -> ResidentModel:
        if wish.keep_alive is not None:
            self._loaded = dataclasses.replace(loaded, wish=dataclasses.replace(loaded.wish, keep_alive=wish.keep_alive))
            await self._remember(_RESIDENT_KEY, _write_wish(self._loaded.wish))
        self._count_down()
        return loaded.model

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise ShuttingDown(_CLOSING)

    def _refuse_while_training(self, what: str) -> None:
        if self._training and self._loaded is not None:
            raise BadState(
                f"A training runs on {self._loaded.model.name}, so the daemon cannot {what}; "
                "wait for it, or type `smolora-client jobs cancel` with its id."
            )

    def _count_down(self) -> None:
        if self._loaded is not None and self._active == 0 and not self._closing:
            wished = self._loaded.wish.keep_alive
            self._keep_alive.start(self._settings.keep_alive if wished is None else wished)

    def _expired(self) -> None:
        self._spawn(self._unload_idle())

    async def _unload_idle(self) -> None:
        async with self._changing:
            if self._active == 0 and self._keep_alive.expired:
                log.info("nobody asked for the model; it goes")
                await self._unload()

    async def _unload_unless_training(self) -> str:
        async with self._changing:
            self._refuse_while_training("unload the model")
            return await self._unload()

    async def _unload(self) -> str:
        name = self._loaded.model.name if self._loaded else ""
        self._loaded = None
        self._keep_alive.stop()
        await self._supervisor.end()
        await self._remember(_RESIDENT_KEY, "")
        return name

    async def _remember(self, key: str, value: str) -> None:
        """For the next start. What has been done to the engine is done, also where the disk does not take the note of it."""
        try:
            await self._library.remember(key, value)
        except (NoSpace, CannotWrite) as error:
            log.warning("what is loaded cannot be written down", key=key, why=error.message)

    def _engine_lost(self) -> None:
        lost, self._loaded = self._loaded, None
        self._keep_alive.stop()
        if lost is not None and not self._closing:
            self._recovery = self._spawn(self._recover(lost))

    async def _recover(self, lost: _Loaded) -> None:
        """Starts the engine again and loads what it held, with growing pauses between tries."""
        if time.monotonic() - self._ready_at > _CALM_S:
            self._tries = 0
        try:
            async with self._changing:
                while self._loaded is None and self._tries < len(_BACKOFF_S):
                    await asyncio.sleep(_BACKOFF_S[self._tries])
                    self._tries += 1
                    try:
                        await self._take(lost.base, lost.wish, _ignore)
                        log.info("engine is back", model=lost.model.name, restarts=self.restarts)
                    except EngineUnavailable as error:
                        log.warning("the engine did not come back", tries=self._tries, why=error.message)
                    except SmoloraError as error:
                        log.error("the model cannot be loaded again", model=lost.model.name, why=error.message)
                        return
        finally:
            self._recovery = None

    async def _last(self) -> LoadRequest:
        """What was loaded last, and how."""
        remembered = await self._library.recall(_LAST_KEY)
        return _read_wish(remembered) if remembered else LoadRequest()

    def _start_load(self, wish: LoadRequest, tell: Tell) -> asyncio.Task[ResidentModel]:
        task: asyncio.Task[ResidentModel] = self._spawn(self._load(wish, tell))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)
        return task

    async def _result(self, task: asyncio.Task[ResidentModel]) -> ResidentModel:
        """A load's model; the caller may go away without ending it, and it may be ended by `unload`, or by the daemon's end."""
        await asyncio.wait({task})
        if task.cancelled():
            raise (
                ShuttingDown(_CLOSING)
                if self._closing
                else Cancelled("The model was unloaded before it was loaded; load it again.")
            )
        return task.result()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, SmoloraError):
            log.error("background work failed", error=repr(error))


async def _finished(task: asyncio.Task[T]) -> T:
    """The task's result; the caller may go away without ending it, and it may be ended by the daemon's end."""
    await asyncio.wait({task})
    if task.cancelled():
        raise ShuttingDown(_CLOSING)
    return task.result()


def _ignore(progress: LoadProgress) -> None:
    """Nobody watches this loading."""


def _placing(wish: LoadRequest) -> Placing:
    return Placing(wish.device, wish.dtype, wish.precision or Precision.EXACT)


def _write_wish(wish: LoadRequest) -> str:
    keep_alive_s = None if wish.keep_alive is None else wish.keep_alive.total_seconds()
    return json.dumps(
        {
            "model": wish.model,
            "device": wish.device,
            "dtype": wish.dtype,
            "precision": wish.precision,
            "keep_alive_s": keep_alive_s,
        }
    )


def _read_wish(text: str) -> LoadRequest:
    found = json.loads(text)
    return LoadRequest(
        model=found["model"],
        device=Device(found["device"]) if found["device"] else None,
        dtype=Dtype(found["dtype"]) if found["dtype"] else None,
        precision=Precision(found["precision"]) if found.get("precision") else None,
        keep_alive=None if found["keep_alive_s"] is None else timedelta(seconds=found["keep_alive_s"]),
    )
