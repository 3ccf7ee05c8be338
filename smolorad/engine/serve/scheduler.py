"""Round-robin scheduling of requests, and their share of the time while a training runs. Knows neither tensors nor tokens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# However slow a micro-step was, the next one waits no longer than this, beyond one step of each request.
LONGEST_SLICE_S = 1.0


class Scheduler(Generic[T]):
    """The active requests, in turn, and how much of the time they get while a training runs.

    A request is an item; the caller makes its steps and removes it when it is finished.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue: deque[T] = deque()
        self._clock = clock
        self._slice_ended: float | None = None
        self._waiting: set[T] = set()  # no turn yet in this slice

    def __len__(self) -> int:
        return len(self._queue)

    def __contains__(self, item: T) -> bool:
        return item in self._queue

    def add(self, item: T) -> None:
        """Adds a request; its first turn comes after all others'."""
        self._queue.append(item)

    def remove(self, item: T) -> None:
        """Removes a finished request."""
        self._queue.remove(item)
        self._waiting.discard(item)

    def rotate(self, item: T) -> None:
        """Puts a request last: it has had its turn, perhaps in another request's batch."""
        self._queue.remove(item)
        self._queue.append(item)
        self._waiting.discard(item)

    def next(self) -> T:
        """The request whose turn it is, which is last from then on."""
        item = self._queue[0]
        self.rotate(item)
        return item

    def all(self) -> tuple[T, ...]:
        """The active requests, the next one first."""
        return tuple(self._queue)

    def begin_training(self) -> None:
        """A training starts now: the time until the first slice is its own."""
        self._slice_ended = self._clock()

    def slice(self) -> Iterator[T]:
        """Turns between two micro-steps of a training.

        Each request has one turn, so that none starves; more follow until as much time is spent as the training has used since
        the last slice. So the training keeps at least half of the time, but for the last turn.
        """
        begun = self._clock()
        used = begun - self._slice_ended if self._slice_ended is not None else 0.0
        end = begun + min(used, LONGEST_SLICE_S)
        self._waiting = set(self._queue)
        while self._queue and (self._waiting or self._clock() < end):
            yield self.next()
        self._waiting.clear()
        self._slice_ended = self._clock()
