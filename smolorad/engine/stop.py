"""Stop strings, found across the borders of pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on until a stop string is complete. How the text is cut into pieces changes nothing.

    The stop string that is complete first counts; of several complete at the same character, the longest. Text that may yet
    turn out to be the beginning of one is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.met = False

    def push(self, piece: str) -> str:
        """The text that may go out now. After a stop string is met, nothing does."""
        if self.met or not piece:
            return ""
        if not self._stops:
            return piece
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.met, self._held = True, ""
            return text[: min(found)[1]]
        hold = self._beginning_at_end(text)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _beginning_at_end(self, text: str) -> int:
        """How many characters at the end of the text are the beginning of a stop string."""
        most = min(len(text), max(map(len, self._stops)) - 1)
        return next((n for n in range(most, 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
