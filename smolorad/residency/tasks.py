"""Background tasks of the residency: they outlive the call that started them, and end with the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from smolorad.errors import ShuttingDown, SmoloraError
from smolorad.log import Log

log = Log(__name__)

T = TypeVar("T")


class BackgroundTasks:
    """The tasks under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closing = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task; a bug in it is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work, which continues if the caller is cancelled. Raises ShuttingDown where the daemon ends it."""
        task = self.spawn(work)
        await asyncio.wait({task})
        if task.cancelled():
            raise _shutting_down()
        return task.result()

    def check_open(self) -> None:
        """Raises ShuttingDown once `close` was called."""
        if self.closing:
            raise _shutting_down()

    def close(self) -> None:
        """Cancels all of them, as the daemon ends."""
        self.closing = True
        for task in tuple(self._tasks):
            task.cancel()

    async def wait(self) -> None:
        """Returns when all of them have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, SmoloraError):
            log.error("background task failed", error=repr(error))


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The daemon is shutting down; start it again with `smolorad serve`.")
