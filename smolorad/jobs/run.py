"""A run of a job under way: what it was asked to become, and how it waits where the disk is full."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from smolorad.domain import JobState
from smolorad.errors import NoSpace, SmoloraError, is_disk_full
from smolorad.jobs.events import Events
from smolorad.log import Log
from smolorad.store.database import CannotWrite

log = Log(__name__)

T = TypeVar("T")

LOOK_S = 5.0  # how often one that waits looks whether there is room
_MORE_BYTES = 2**20  # what must be free besides what was free when it did not suffice
# When it tries all the same, first and at most: the room may have come before it was measured, or on another disk.
FIRST_AGAIN_S, _LAST_AGAIN_S = 5.0, 600.0
FULL = "the disk is full; it continues when there is room"
_REFUSED = "the daemon's database cannot be written; it continues when it can"


class Unwritten(NoSpace):
    """The daemon ends before there is room for what should be written."""


def is_full(error: Exception) -> bool:
    """Whether a full disk is the reason of an error, ours or another's."""
    return isinstance(error, NoSpace) or (not isinstance(error, SmoloraError) and is_disk_full(error))


@dataclass(slots=True)
class Run:
    """Its cancellable part, and what the job shall become if that part is cancelled."""

    job_id: str
    events: Events
    task: asyncio.Task[Any] | None = None
    wish: JobState | None = None
    why: str = ""
    again: bool = False  # it was resumed before the wish came true, so it is lined up again after that
    last: bool = False  # the daemon ends: nothing is waited for
    rooms: int = 0  # how often its work has waited for room
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, to: JobState, why: str) -> None:
        """Ends the cancellable part, and a wait for room."""
        self.wish, self.why = to, why
        if self.task is not None:
            self.task.cancel()
        self.stir()

    def stir(self) -> None:
        """Has it look at once whether there is room."""
        self._stirred.set()

    @property
    def waits(self) -> bool:
        """Whether it waits for room."""
        return bool(self.events.wait_of(self.job_id))

    def close(self) -> None:
        """It waits for nothing any more."""
        self.events.set_wait(self.job_id, "")

    async def written(self, write: Callable[[], Awaitable[T]], *, unless_asked: bool = False) -> T:
        """What a write gives. Where the disk is full it waits and tries again: what is not written down would be lost.

        With `unless_asked` the wait ends, with the error, where the job was asked to end. Raises Unwritten where the daemon
        ends.
        """
        while True:
            self._stirred.clear()
            try:
                result = await write()
            except (NoSpace, CannotWrite, OSError) as error:
                if not isinstance(error, CannotWrite) and not is_full(error):
                    raise
                if self.last:
                    raise Unwritten(str(error)) from error
                if unless_asked and self.wish is not None:
                    raise
                self._wait_for(_REFUSED if isinstance(error, CannotWrite) else FULL, error)
            else:
                self.close()
                return result
            await self._stir_within(LOOK_S)

    async def room(self, home: Path) -> None:
        """Returns once there is more room than there was, or the job was asked to end or to try now.

        What failed is much work to try again, so that a few bytes are no reason for it. It is tried after a while all the
        same, which is twice as long each time.
        """
        self._stirred.clear()
        loop = asyncio.get_running_loop()
        again = loop.time() + min(FIRST_AGAIN_S * 2 ** min(self.rooms, 10), _LAST_AGAIN_S)
        self.rooms += 1
        wanted = await asyncio.to_thread(_free_bytes, home) + _MORE_BYTES
        self.events.set_wait(self.job_id, FULL)
        while self.wish is None and not await self._stir_within(LOOK_S):
            if loop.time() >= again or await asyncio.to_thread(_free_bytes, home) >= wanted:
                break
        self.close()

    def _wait_for(self, what: str, error: Exception) -> None:
        if not self.waits:
            log.error("a job waits until it can be written down", job=self.job_id, why=error)
        self.events.set_wait(self.job_id, what)

    async def _stir_within(self, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self._stirred.wait()
        except TimeoutError:
            return False
        return True


def _free_bytes(home: Path) -> int:
    return shutil.disk_usage(home).free
