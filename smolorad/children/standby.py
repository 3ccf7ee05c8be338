"""Standby: a child process that is started before it is needed, and ended if it stays unused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import psutil

from smolorad.children.child import Child
from smolorad.errors import EngineUnavailable
from smolorad.log import Log

log = Log(__name__)

# One that is still starting when it is needed may be about to be ready; a busy machine may also keep it from that for ever.
# This is about what another one would take, so a wait without success at most doubles that.
_PATIENCE_S = 2.0
# With less free memory than this, running computations need it more.
_LEAST_FREE_BYTES = 2 * 2**30


class Standby:
    """At most one child that waits for its command, for a limited time. It is a convenience: what goes wrong is only logged."""

    def __init__(self, start: Callable[..., Coroutine[Any, Any, Child]], *, least_free_bytes: int = _LEAST_FREE_BYTES) -> None:
        self._start = start
        self._least_free_bytes = least_free_bytes
        self._starting: asyncio.Task[Child] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def child(self) -> Child | None:
        """The one that waits; None where there is none, or it is still starting."""
        task = self._starting
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return None if task.result().is_gone else task.result()

    def keep(self, span_s: float, *arguments: str) -> None:
        """Keeps a child ready for at least this time; starts one, with these arguments, unless memory is short."""
        if self._closed:
            return
        if self._starting is None or (self._starting.done() and self.child is None):
            if psutil.virtual_memory().available < self._least_free_bytes:
                return
            self._starting = asyncio.create_task(self._start(*arguments), name="standby")
            self._starting.add_done_callback(_log_failure)
        loop = asyncio.get_running_loop()
        until = max(loop.time() + span_s, self._timer.when() if self._timer is not None else 0.0)
        self._stop_timer()
        self._timer = loop.call_at(until, self._give_back)

    async def take(self) -> Child | None:
        """The child, for the caller to use and to end; None where there is none that is ready within two seconds."""
        self._stop_timer()
        task, self._starting = self._starting, None
        if task is None:
            return None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                child = await asyncio.shield(task)
        except (TimeoutError, EngineUnavailable):
            await _end(task)
            return None
        except asyncio.CancelledError:
            await _end(task)
            raise
        return None if child.is_gone else child

    async def ready(self) -> Child | None:
        """The child, once it has started; None where there is none. It stays here."""
        if self._starting is not None:
            await asyncio.wait({self._starting})
        return self.child

    async def close(self) -> None:
        """Ends it, and starts none any more."""
        self._closed = True
        self._give_back()
        await asyncio.gather(*self._ending)

    def _give_back(self) -> None:
        self._stop_timer()
        task, self._starting = self._starting, None
        if task is not None:
            ending = asyncio.create_task(_end(task), name="standby-end")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _end(starting: asyncio.Task[Child]) -> None:
    """Kills the child, ready or not."""
    starting.cancel()
    await asyncio.wait({starting})
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().kill()


def _log_failure(starting: asyncio.Task[Child]) -> None:
    if not starting.cancelled() and (error := starting.exception()) is not None:
        log.info("standby process failed", why=error)
