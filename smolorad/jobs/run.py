"""A run of a job: the state that a caller requested for it, and its wait for a full disk."""

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

LOOK_S = 5.0  # how often a waiting run checks for free space
_MORE_BYTES = 2**20  # what must be free above what was free when the disk was full
# A run tries again after this time, doubled each time: space may have become free before it was measured, or on another disk.
FIRST_RETRY_S, _LONGEST_RETRY_S = 5.0, 600.0
FULL = "the disk is full; it continues when there is room"
_REFUSED = "the daemon's database cannot be written; it continues when it can"


class Unwritten(NoSpace):
    """The daemon ends before the disk has space for what should be written."""


def is_full(error: Exception) -> bool:
    """Whether a full disk caused an error of smolora or of a library."""
    return isinstance(error, NoSpace) or (not isinstance(error, SmoloraError) and is_disk_full(error))


@dataclass(slots=True)
class Run:
    """The cancellable task of a run, and the state that the job gets if it is cancelled."""

    job_id: str
    events: Events
    task: asyncio.Task[Any] | None = None
    requested: JobState | None = None
    why: str = ""
    resume_after: bool = False  # resumed before it had ended as requested: it is queued again after that
    closing: bool = False  # the daemon ends: the run waits for nothing
    space_waits: int = 0  # how often its work has waited for disk space
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, to: JobState, why: str) -> None:
        """Cancels the task, and a wait for disk space."""
        self.requested, self.why = to, why
        if self.task is not None:
            self.task.cancel()
        self.wake()

    def wake(self) -> None:
        """Makes the run check for disk space at once."""
        self._woken.set()

    @property
    def waits(self) -> bool:
        """Whether the run waits for disk space."""
        return bool(self.events.wait_of(self.job_id))

    def close(self) -> None:
        """Ends the wait."""
        self.events.set_wait(self.job_id, "")

    async def persist(self, write: Callable[[], Awaitable[T]], *, unless_requested: bool = False) -> T:
        """Writes, and returns what the write returns. On a full disk it waits and tries again, so that nothing is lost.

        With `unless_requested` a cancelled or paused job does not wait: it gets the error. Raises Unwritten where the daemon
        ends.
        """
        while True:
            self._woken.clear()
            try:
                result = await write()
            except (NoSpace, CannotWrite, OSError) as error:
                if not isinstance(error, CannotWrite) and not is_full(error):
                    raise
                if self.closing:
                    raise Unwritten(str(error)) from error
                if unless_requested and self.requested is not None:
                    raise
                self._wait_for(_REFUSED if isinstance(error, CannotWrite) else FULL, error)
            else:
                self.close()
                return result
            await self._wake_within(LOOK_S)

    async def wait_for_space(self, home: Path) -> None:
        """Returns once the disk has clearly more space than before, or the job is cancelled, paused or woken.

        Trying again is expensive, so a few free bytes do not suffice. After a while, doubled each time, it returns anyway.
        """
        self._woken.clear()
        loop = asyncio.get_running_loop()
        retry_at = loop.time() + min(FIRST_RETRY_S * 2 ** min(self.space_waits, 10), _LONGEST_RETRY_S)
        self.space_waits += 1
        wanted = await asyncio.to_thread(_free_bytes, home) + _MORE_BYTES
        self.events.set_wait(self.job_id, FULL)
        while self.requested is None and not await self._wake_within(LOOK_S):
            if loop.time() >= retry_at or await asyncio.to_thread(_free_bytes, home) >= wanted:
                break
        self.close()

    def _wait_for(self, what: str, error: Exception) -> None:
        if not self.waits:
            log.error("job waits until its state can be stored", job=self.job_id, why=error)
        self.events.set_wait(self.job_id, what)

    async def _wake_within(self, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


def _free_bytes(home: Path) -> int:
    return shutil.disk_usage(home).free
