"""Which rows are held out for evaluation."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator

# Pieces held out in a row where neighbours overlap: with longer runs fewer are lost at their ends, with shorter ones they stand
# for more of the text.
_RUN = 16


def held_out_rows(rows: int, share: float) -> int:
    """How many of `rows` are held out: their share, rounded half up, at least one; but one row at least stays for training.

    With a share of 0 no row is held out.
    """
    if share <= 0 or rows < 2:
        return 0
    return min(max(int(rows * share + 0.5), 1), rows - 1)


def held_out(rows: int, share: float, seed: int) -> Iterator[bool]:
    """For each row in turn whether it is held out: exactly `held_out_rows`, each choice equally likely.

    Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S) takes no memory. `Random.random` is the
    one method whose numbers Python promises to keep for a seed, so a seed means the same rows everywhere.
    """
    draw = random.Random(seed).random
    wanted = held_out_rows(rows, share)
    for left in range(rows, 0, -1):
        chosen = left * draw() < wanted
        wanted -= chosen
        yield chosen


def reach(size: int, overlap: int) -> int:
    """How many pieces behind one of `size` tokens may have a part of it, where each takes up `overlap` tokens of the last."""
    # One more than the numbers say where they come out even: pieces end between characters, not always between tokens.
    return size // (size - overlap) if overlap else 0


class OverlappingPieces:
    """Which pieces of cut texts are held out, where `reach` neighbours overlap: whole texts, or runs of their pieces.

    A piece that has a part in common with one of the other side is for neither. As many are held out as `held_out_rows` says;
    fewer where the texts are too few for that.
    """

    def __init__(self, pieces: int, share: float, seed: int, reach: int) -> None:
        self._draw = random.Random(seed).random
        self._left = pieces
        self._wanted = held_out_rows(pieces, share)
        self._longest = min(self._wanted, _RUN)
        self._reach = reach
        self._text: Hashable = None
        self._last: dict[bool, int] = {}  # where in the text the last piece of each side stands
        self._at = 0
        self._held = False
        self._run = 0

    def side(self, text: Hashable) -> bool | None:
        """Whether the next piece, one of `text`, is held out; None where it is for neither side."""
        is_first = self._text is None
        if text != self._text:
            self._text, self._last, self._at = text, {}, 0
            self._turn(is_first)
        elif self._run >= self._longest or not self._wanted or (not self._held and self._room <= self._wanted):
            self._turn(is_first)
        self._at += 1
        self._left -= 1
        other = self._last.get(not self._held)
        if other is not None and self._at - other <= self._reach:
            return None
        self._last[self._held] = self._at
        self._run += 1
        self._wanted -= self._held
        return self._held

    @property
    def _room(self) -> int:
        """How many pieces could be held out from here on."""
        return self._left - (self._reach if self._last else 0)

    def _turn(self, is_first: bool) -> None:
        """Begins another run. The first is trained on, so that there is one."""
        drawn = self._room > 0 and self._room * self._draw() < self._wanted
        self._held = drawn and not is_first
        self._run = 0
