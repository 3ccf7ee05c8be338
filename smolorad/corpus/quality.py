"""Signs of damaged text in every language."""

from __future__ import annotations

import re
from collections import Counter

from smolorad.corpus.mojibake import mojibake
from smolorad.domain import ProblemKind

# C0 controls but tab, line feed, form feed and carriage return; DEL; C1, which no writing uses; and the byte order mark, which
# stands at the beginning of files alone.
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
_GIVEN_UP = "\ufffd"  # stands where a decoder found no character
_SHOWN = 20
_EDGE = 48  # characters of a beginning or an end
SHORTEST = 3 * _EDGE  # a row where beginning and end are small parts
_MOST_EDGES = 20_000
_SHARE, _LEAST_ROWS = 0.2, 50


def damage(text: str) -> tuple[ProblemKind, str] | None:
    """What is wrong with the characters of a text; None for sound ones."""
    found = None if text.isprintable() else _CONTROL.search(text)
    if found is not None:
        why = f"has the control character U+{ord(found[0]):04X}; remove it, or check its source"
        return ProblemKind.CONTROL_CHARACTERS, why
    if text.isascii():
        return None
    if (piece := _GIVEN_UP if _GIVEN_UP in text else mojibake(text)) is not None:
        why = f"has {piece[:_SHOWN]!r}, as text that was decoded with the wrong encoding; decode the source as UTF-8"
        return ProblemKind.MOJIBAKE, why
    return None


def is_sound(text: str) -> bool:
    """Whether there is surely nothing wrong with the characters of a text; `damage` looks closer."""
    return text.isascii() and (text.isprintable() or _CONTROL.search(text) is None)


class Edges:
    """Counts how rows begin and end, and remembers where each was first; of a bounded number of them."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[bool, str]] = Counter()
        self._places: dict[tuple[bool, str], tuple[str, int]] = {}
        self.rows = 0

    def add(self, text: str, file: str, line: int) -> None:
        """One more row that is long enough to have edges."""
        for edge in ((True, text[:_EDGE]), (False, text[-_EDGE:])):
            if edge in self._counts:
                self._counts[edge] += 1
            elif len(self._counts) < _MOST_EDGES:
                self._counts[edge] = 1
                self._places[edge] = (file, line)

    def boilerplate(self) -> tuple[int, str, str, int] | None:
        """How many rows share their commonest beginning or end, that text, and where it first stood; None where few do."""
        if not self._counts:
            return None
        (edge, rows), *_ = self._counts.most_common(1)
        if rows < max(_LEAST_ROWS, _SHARE * self.rows):
            return None
        return rows, edge[1], *self._places[edge]
