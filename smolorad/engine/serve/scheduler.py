"""Who goes next. Knows neither tensors nor tokens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# However slow a micro-step was, the next one is not kept waiting longer than this (beyond the generations' one step each).
LONGEST_SLICE_S = 1.0


class Scheduler(Generic[T]):
    """The active generations, in a circle, and what of the time they get while a training runs.

    A generation is an item; the caller steps it and removes it when it has ended.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._circle: deque[T] = deque()
        self._clock = clock
        self._slice_ended: float | None = None
        self._owed: set[T] = set()  # who has had no turn yet in this slice

    def __len__(self) -> int:
        return len(self._circle)

    def __contains__(self, item: T) -> bool:
        return item in self._circle

    def add(self, item: T) -> None:
        """Lets a generation in; its first turn comes after everybody's who is there."""
        self._circle.append(item)

    def remove(self, item: T) -> None:
        """The generation has ended."""
        self._circle.remove(item)
        self._owed.discard(item)

    def went(self, item: T) -> None:
        """The generation had its turn in another one's company; it is then the last of the circle."""
        self._circle.remove(item)
        self._circle.append(item)
        self._owed.discard(item)

    def next(self) -> T:
        """Whose turn it is; it is then the last of the circle."""
        item = self._circle[0]
        self.went(item)
        return item

    def all(self) -> tuple[T, ...]:
        """The active generations, the next one first."""
        return tuple(self._circle)

    def begin_training(self) -> None:
        """A training starts now: what it uses until the first slice is its own."""
        self._slice_ended = self._clock()

    def slice(self) -> Iterator[T]:
        """Turns between two micro-steps of a training.

        Everybody has one turn, so that nobody starves; more follow until as much time is spent as the training has used since
        the last slice, so that the training keeps at least half of the time, but for the last turn.
        """
        begun = self._clock()
        used = begun - self._slice_ended if self._slice_ended is not None else 0.0
        end = begun + min(used, LONGEST_SLICE_S)
        self._owed = set(self._circle)
        while self._circle and (self._owed or self._clock() < end):
            yield self.next()
        self._owed.clear()
        self._slice_ended = self._clock()
