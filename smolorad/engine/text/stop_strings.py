"""Stop strings, found across the borders of pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


class StopStrings:
    """Passes text on until a stop string is complete. How the text is cut into pieces changes nothing.

    The stop string that is complete first counts; of several complete at the same character, the longest. Text that may yet
    turn out to be the beginning of one is held back. Special tokens are part of the text that is searched, as they are to
    transformers' `stop_strings`, and no part of what is passed on.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self._shown: list[bool] = []  # of each character held
        self.met = False

    def push(self, piece: str, *, shown: bool = True) -> str:
        """The text that may go out now. After a stop string is met, nothing does. What is not shown never goes out."""
        if self.met or not piece:
            return ""
        if not self._stops:
            return piece if shown else ""
        self._held += piece
        self._shown += [shown] * len(piece)
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            passed = self._pass(min(found)[1])
            self.met, self._held, self._shown = True, "", []
            return passed
        return self._pass(len(self._held) - self._beginning_at_end())

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        return self._pass(len(self._held))

    def _pass(self, count: int) -> str:
        """Lets the first characters go; those of them that are shown."""
        passed = "".join(itertools.compress(self._held[:count], self._shown))
        self._held, self._shown = self._held[count:], self._shown[count:]
        return passed

    def _beginning_at_end(self) -> int:
        """How many characters at the end of what is held are the beginning of a stop string."""
        text = self._held
        most = min(len(text), max(map(len, self._stops)) - 1)
        return next((n for n in range(most, 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
