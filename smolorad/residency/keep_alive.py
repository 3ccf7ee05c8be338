"""KeepAlive: the countdown to the unload of an unused model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_NEVER = timedelta(days=3650)


class KeepAlive:
    """Calls `expired` when the model was unused for a while; counts on the loop's monotonic clock."""

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None

    def start(self, span: timedelta) -> None:
        """Starts from now. A negative span, and one of ten years or more, never expires; zero expires at once."""
        self.stop()
        if timedelta(0) <= span < _NEVER:
            self._timer = asyncio.get_running_loop().call_later(span.total_seconds(), self._expired)

    def stop(self) -> None:
        """Stops the countdown."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def expired(self) -> bool:
        """Whether it ran to its end, and was not started again since."""
        return self._timer is not None and self._timer.when() <= asyncio.get_running_loop().time()

    def due(self) -> datetime | None:
        """When it expires, by the wall clock; None where it is stopped."""
        if self._timer is None:
            return None
        left_s = self._timer.when() - asyncio.get_running_loop().time()
        return datetime.now(UTC) + timedelta(seconds=max(0.0, left_s))
