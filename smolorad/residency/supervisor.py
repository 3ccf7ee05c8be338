"""One engine process: started on demand, watched, and told of when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from smolorad.children.engine import Engine, EngineFactory, Pong
from smolorad.errors import EngineUnavailable
from smolorad.log import Log

log = Log(__name__)

_PINGS_IN_STALL = 4
_END_GRACE_S = 2.0
_ANSWER_S = 2.0
_STUCK = "did not come back from a call that had been cancelled"


class Supervisor:
    """Holds at most one engine. `lost` is called once for each engine that ends unasked."""

    def __init__(self, factory: EngineFactory, stall_s: float, lost: Callable[[], None]) -> None:
        self._factory = factory
        self._stall_s = stall_s
        self._lost = lost
        self._watch: asyncio.Task[None] | None = None
        self.engine: Engine | None = None
        self.was_stuck = False  # the last one, which was killed for that
        self.restarts = 0

    async def started(self) -> Engine:
        """The engine, started if there is none. Not to be called twice at once."""
        if self.engine is None:
            self.engine = engine = await self._factory()
            self.was_stuck = False
            self._watch = asyncio.create_task(self._watch_over(engine), name="engine-watch")
            log.info("engine started", pid=engine.pid)
        return self.engine

    async def end(self, grace_s: float = _END_GRACE_S) -> None:
        """Ends the engine, if there is one: it checkpoints within the grace, and is killed after it."""
        engine, self.engine = self.engine, None
        if engine is None:
            return
        await engine.drain(grace_s)
        await engine.kill()
        await engine.wait()
        if self._watch is not None:
            self._watch.cancel()
        log.info("engine ended", pid=engine.pid)

    async def forget(self, engine: Engine) -> None:
        """The engine did not answer as a living one does: it counts as dead from now on. Harmless to say twice."""
        if self.engine is not engine:
            return
        self.engine = None
        self.restarts += 1
        self._lost()
        await engine.kill()

    async def _watch_over(self, engine: Engine) -> None:
        pulse = asyncio.create_task(self._pulse(engine), name="engine-pulse")
        try:
            status = await engine.wait()
        finally:
            pulse.cancel()
        if self.engine is engine:
            log.warning("engine died", pid=engine.pid, status=status)
        await self.forget(engine)

    async def _pulse(self, engine: Engine) -> None:
        """Pings, so that an engine is found out that is stopped, or that does not come back from a call that was cancelled."""
        while True:
            await asyncio.sleep(self._stall_s / _PINGS_IN_STALL)
            try:
                async with asyncio.timeout(self._stall_s):
                    pong = await engine.ping()
            except TimeoutError:
                log.error("engine gives no sign of life; it is killed", pid=engine.pid, seconds=self._stall_s)
                await engine.kill()
                return
            except EngineUnavailable:
                return
            if pong.stuck_s >= self._stall_s:
                log.error("engine does not come back from a cancelled call; it is killed", pid=engine.pid, seconds=pong.stuck_s)
                self.was_stuck = True
                await engine.kill(_STUCK)
                return

    async def pong(self) -> Pong | None:
        """What the engine says of itself; None where it does not answer at once."""
        if self.engine is None:
            return Pong()
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self.engine.ping()
        except (TimeoutError, EngineUnavailable):
            return None
