"""Guesses the next tokens from the text itself, and stops where guessing does not pay.

Quotes, rewritten code and JSON repeat what stands before them. What followed the last tokens when they stood there before is
computed along with the next token; as many as turn out right are kept. Source: prompt lookup decoding, A. Saxena, 2023.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MOST = 4  # tokens guessed at once
_LONGEST, _SHORTEST = 4, 2  # of the tokens that must have stood there before
_SAMPLES = 4  # of either way, before they are compared
# Plain steps after guessing has cost more than it brought: the more, the oftener that was so without a gain between.
_PAUSE, _LONGEST_PAUSE = 32, 512
_WEIGHT = 0.2  # of the newest sample


class Pace:
    """Seconds a token, as of late."""

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """One more sample."""
        self.samples += 1
        self.seconds += (seconds - self.seconds) * max(_WEIGHT, 1 / self.samples)


class Lookup:
    """Guesses of one sequence. Plain steps are measured first; guessing goes on while its tokens come faster.

    Once it has not paid, one step after each pause tells whether it does now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._plain, self._guessed = Pace(), Pace()
        self._pause = 0
        self._next_pause = _PAUSE
        self._stepped: float | None = None

    def guess(self, ids: NDArray[np.int64], most: int = MOST) -> list[int]:
        """What may follow `ids` (tokens,), at most so many tokens; none where nothing repeats, or guessing does not pay."""
        if self._plain.samples < _SAMPLES or self._pause > 0 or most < 1:
            return []
        return _continuation(ids, min(most, MOST))

    def stepped(self, guessed: int, kept: int) -> None:
        """A step has made `kept` tokens, of which all but the last had been among `guessed` guesses."""
        now, before = self._clock(), self._stepped
        self._stepped = now
        if before is None:
            return
        seconds = (now - before) / kept
        (self._guessed if guessed else self._plain).add(seconds)
        if not guessed:
            self._pause -= 1
        elif self._guessed.samples >= _SAMPLES:
            self._weigh(seconds)

    def _weigh(self, seconds: float) -> None:
        """Whether guessing goes on, after a guessed step of so many seconds a token."""
        plain = self._plain.seconds
        if self._guessed.seconds <= plain:
            self._next_pause = _PAUSE
        elif seconds > plain:  # a gain is followed up, also where it has not yet made up for what was lost
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, _LONGEST_PAUSE)


def _continuation(ids: NDArray[np.int64], most: int) -> list[int]:
    """What followed when the last tokens last stood in `ids`, the longest of them first."""
    for length in range(_LONGEST, _SHORTEST - 1, -1):
        if len(ids) <= length:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], length)
        found = np.flatnonzero((windows == ids[-length:]).all(axis=1))
        if len(found):
            begin = int(found[-1]) + length
            return [int(token) for token in ids[begin : begin + most]]
    return []
