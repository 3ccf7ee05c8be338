"""Finds stop strings, also where they span several pieces of text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


class StopStrings:
    """Passes text on until a stop string is complete. How the text is split into pieces changes nothing.

    The stop string that is complete first counts; of several complete at the same character, the longest. Text that may still
    become a stop string is kept back. Special tokens are part of the searched text, as in transformers' `stop_strings`, and not
    of the text that is passed on.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._pending = ""
        self._shown: list[bool] = []  # of each pending character
        self.met = False

    def push(self, piece: str, *, shown: bool = True) -> str:
        """The text to pass on now; nothing after a stop string. A piece that is not `shown` is only searched."""
        if self.met or not piece:
            return ""
        if not self._stops:
            return piece if shown else ""
        self._pending += piece
        self._shown += [shown] * len(piece)
        found = [(at + len(stop), at) for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        if found:
            passed = self._pass(min(found)[1])
            self.met, self._pending, self._shown = True, "", []
            return passed
        return self._pass(len(self._pending) - self._beginning_at_end())

    def flush(self) -> str:
        """The remaining text, when no more comes."""
        return self._pass(len(self._pending))

    def _pass(self, count: int) -> str:
        """Removes the first pending characters; returns those that are shown."""
        passed = "".join(itertools.compress(self._pending[:count], self._shown))
        self._pending, self._shown = self._pending[count:], self._shown[count:]
        return passed

    def _beginning_at_end(self) -> int:
        """How many characters at the end of the pending text may begin a stop string."""
        text = self._pending
        most = min(len(text), max(map(len, self._stops)) - 1)
        return next((n for n in range(most, 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
