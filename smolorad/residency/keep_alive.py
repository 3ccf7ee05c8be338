"""A countdown that starts anew with every use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_FOR_EVER = timedelta(days=3650)


class KeepAlive:
    """Calls `expired` once nobody has asked for a while; counts on the loop's monotonic clock."""

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None

    def start(self, span: timedelta) -> None:
        """Counts from now; a negative span is for ever, and so are ten years; zero is at once."""
        self.stop()
        if timedelta(0) <= span < _FOR_EVER:
            self._timer = asyncio.get_running_loop().call_later(span.total_seconds(), self._expired)

    def stop(self) -> None:
        """Counts no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def expired(self) -> bool:
        """Whether it counted to its end, and was not started anew since."""
        return self._timer is not None and self._timer.when() <= asyncio.get_running_loop().time()

    def due(self) -> datetime | None:
        """When it will expire, by the wall clock; None where it does not count."""
        if self._timer is None:
            return None
        left_s = self._timer.when() - asyncio.get_running_loop().time()
        return datetime.now(UTC) + timedelta(seconds=max(0.0, left_s))
