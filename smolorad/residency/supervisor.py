"""Supervisor: starts the one engine process, watches it, and reports its death."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from smolorad.children.engine import Engine, EngineFactory, Pong
from smolorad.errors import EngineUnavailable
from smolorad.log import Log

log = Log(__name__)

_PINGS_IN_STALL = 4
_END_GRACE_S = 2.0
_PONG_S = 2.0
_STUCK = "did not come back from a call that had been cancelled"


@dataclass(frozen=True, slots=True)
class Running:
    """An engine process and the task that watches it."""

    engine: Engine
    watch: asyncio.Task[None]


class Supervisor:
    """Runs at most one engine. Calls `lost` once for each engine that ends by itself."""

    def __init__(self, factory: EngineFactory, stall_s: float, lost: Callable[[], None]) -> None:
        self._factory = factory
        self._stall_s = stall_s
        self._lost = lost
        self._running: Running | None = None
        self._ending: set[Engine] = set()  # those that were detached
        self.was_stuck = False  # the last engine was killed over a cancelled call
        self.restarts = 0

    @property
    def engine(self) -> Engine | None:
        """The running engine."""
        return self._running.engine if self._running else None

    async def started(self) -> Engine:
        """The engine; starts one if there is none. The caller makes one such call at a time."""
        if self._running is None:
            engine = await self._factory()
            self.was_stuck = False
            self._running = Running(engine, asyncio.create_task(self._watch_over(engine), name="engine-watch"))
            log.info("engine started", pid=engine.pid)
        return self._running.engine

    async def end(self, grace_s: float = _END_GRACE_S) -> None:
        """Ends the engine, if there is one: it checkpoints within the grace, and is killed after it."""
        await self.finish(self.detach(), grace_s)

    def detach(self) -> Running | None:
        """Takes the engine out of use, for `finish`; a new one can be started from here on."""
        running, self._running = self._running, None
        if running is not None:
            self._ending.add(running.engine)
        return running

    async def finish(self, running: Running | None, grace_s: float = _END_GRACE_S) -> None:
        """Ends an engine that was detached."""
        if running is None:
            return
        await running.engine.drain(grace_s)
        await running.engine.kill()
        await running.engine.wait()
        running.watch.cancel()
        self._ending.discard(running.engine)
        log.info("engine ended", pid=running.engine.pid)

    async def forget(self, engine: Engine) -> None:
        """Treats an engine as dead that no longer answers. A second call does nothing."""
        if self.engine is not engine:
            return
        self._running = None
        self.restarts += 1
        self._lost()
        await engine.kill()

    async def _watch_over(self, engine: Engine) -> None:
        pulse = asyncio.create_task(self._pulse(engine), name="engine-pulse")
        try:
            status = await engine.wait()
        finally:
            pulse.cancel()
        if engine not in self._ending:  # here, not in `forget`, whose caller may be cancelled before the process has ended
            log.warning("engine died", pid=engine.pid, status=status)
        await self.forget(engine)

    async def _pulse(self, engine: Engine) -> None:
        """Pings the engine, and kills one that is stopped or does not come back from a cancelled call."""
        while True:
            await asyncio.sleep(self._stall_s / _PINGS_IN_STALL)
            try:
                async with asyncio.timeout(self._stall_s):
                    pong = await engine.ping()
            except TimeoutError:
                log.error("engine does not answer; killing it", pid=engine.pid, seconds=self._stall_s)
                await engine.kill()
                return
            except EngineUnavailable:
                return
            if pong.stuck_s >= self._stall_s:
                log.error("engine stuck in a cancelled call; killing it", pid=engine.pid, seconds=pong.stuck_s)
                self.was_stuck = True
                await engine.kill(_STUCK)
                return

    async def pong(self) -> Pong | None:
        """The engine's state; None where it does not answer at once."""
        if self._running is None:
            return Pong()
        try:
            async with asyncio.timeout(_PONG_S):
                return await self._running.engine.ping()
        except (TimeoutError, EngineUnavailable):
            return None
