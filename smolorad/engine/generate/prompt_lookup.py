"""Prompt lookup decoding: guesses the next tokens from the text itself, and stops where guessing does not pay.

Quotes, rewritten code and JSON repeat earlier text. What followed the last tokens where they stood before is computed along
with the next token; the guesses that turn out right are kept. Source: prompt lookup decoding, A. Saxena, 2023.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.generate.token_rate import TokenRate

MAX_GUESSES = 4  # tokens at once
_LONGEST, _SHORTEST = 4, 2  # of the tokens that must have stood there before
_SAMPLES = 4  # of either way, before they are compared
# Plain steps after guessing cost more than it gained; the pause doubles each time until there is a gain.
_PAUSE, _LONGEST_PAUSE = 32, 512


class PromptLookup:
    """The guesses of one sequence. Plain steps are measured first; guessing continues while its tokens come faster.

    Once it has not paid, one step after each pause shows whether it does now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._plain, self._guessed = TokenRate(), TokenRate()
        self._pause = 0
        self._next_pause = _PAUSE
        self._stepped: float | None = None

    def guess(self, ids: NDArray[np.int64], most: int = MAX_GUESSES) -> list[int]:
        """What may follow `ids` (tokens,), at most `most` tokens; none where nothing repeats, or guessing does not pay."""
        if self._plain.samples < _SAMPLES or self._pause > 0 or most < 1:
            return []
        return _continuation(ids, min(most, MAX_GUESSES))

    def stepped(self, guessed: int, kept: int) -> None:
        """A step made `kept` tokens, of which all but the last were among `guessed` guesses."""
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
        """Decides whether guessing continues, after a guessed step of `seconds` a token."""
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
