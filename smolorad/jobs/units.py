"""Units: steps that belong together, such as a folder and its row. They finish even if the caller is cancelled."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from smolorad.log import Log

log = Log(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Units:
    """The units under way. A unit inside another one is part of it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work, which continues if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def close(self) -> None:
        """Returns once every unit has ended: until then the database must stay open."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class _WithUnits(Protocol):
    _units: Units


S = TypeVar("S", bound=_WithUnits)


def unit(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Awaitable[T]]:
    """Makes each call of a method one unit."""

    @functools.wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._units.run(method(self, *args, **kwargs))

    return run


def _log_failure(task: asyncio.Task[Any]) -> None:
    """Logs an error that no caller receives."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a call whose client went away failed", why=repr(error))
