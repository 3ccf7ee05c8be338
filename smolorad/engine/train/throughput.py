"""How fast a training is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Aside:
    """Work that recurs every `every` steps, and the time it has taken so far."""

    every: int
    seconds: float = 0.0
    times: int = 0

    def left_s(self, step: int, last: int) -> float:
        """What it takes after `step`, up to and after the last."""
        if not self.every:
            return 0.0
        return self.seconds / max(self.times, 1) * (-(-last // self.every) - step // self.every) * (step < last)


class Throughput:
    """Measures seconds of training between reports, without pauses.

    The rate is measured since the last report, as it changes with the rows. The time left is estimated from all steps so far,
    which is steadier, and includes the evaluations, samples and checkpoints still to come.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, samples: int = 0, saves: int = 0) -> None:
        """Samples and checkpoints come every `samples` and `saves` steps, and after the last one; 0: never."""
        self._clock = clock
        self._asides = {"samples": _Aside(samples), "saves": _Aside(saves)}
        self._begin: float | None = None
        self._step, self._tokens = 0, 0
        self._seconds, self._steps = 0.0, 0
        self._aside_s = 0.0

    def start(self, step: int, tokens: int) -> None:
        """Training continues now, after `step` steps and `tokens` tokens; nothing happens while it is under way."""
        if self._begin is None:
            self._begin, self._step, self._tokens = self._clock(), step, tokens

    def report(self, step: int, tokens: int, steps_left: int, evaluations_left: int = 0) -> tuple[float, float]:
        """Tokens a second since the last report, and the seconds that are left."""
        assert self._begin is not None, "a report follows a step"
        seconds, self._begin = max(self._clock() - self._begin, 1e-9), None
        self._seconds += seconds
        self._steps += step - self._step
        left_s = self._seconds / max(self._steps, 1) * steps_left + self._aside_s * evaluations_left
        left_s += self._asides["samples"].left_s(step, step + steps_left)
        if steps_left:  # this step's own checkpoint follows the report
            left_s += self._asides["saves"].left_s(step - 1, step + steps_left)
        return (tokens - self._tokens) / seconds, left_s

    def evaluated(self, seconds: float) -> None:
        """An evaluation took `seconds`, which belong to no step."""
        self._aside_s, self._begin = seconds, None

    @contextmanager
    def aside(self, what: str = "samples") -> Iterator[None]:
        """The work inside is no training: samples, or saves."""
        begin = self._clock()
        yield
        seconds, aside = self._clock() - begin, self._asides[what]
        aside.seconds, aside.times = aside.seconds + seconds, aside.times + 1
        if self._begin is not None:
            self._begin += seconds
