"""Which texts were there before."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b

_DIGEST_BYTES = 16  # 128 bits: a false duplicate among a billion texts is likelier a fault of the memory
_HALVES = struct.Struct("<QQ").unpack
_FIRST_SLOTS = 2**16  # one MiB


class Seen:
    """A set of texts that keeps digests alone, in one table: 21 to 32 bytes a text, where a Python set takes a hundred."""

    def __init__(self) -> None:
        self._slots = _FIRST_SLOTS
        self._table = _empty(self._slots)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        return self._table[self._place(*_digest(text))] != 0

    def add(self, text: str) -> bool:
        """Remembers a text; whether it is new."""
        first, second = _HALVES(blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest())
        first = first or 1
        table = self._table
        at = first % self._slots * 2
        if table[at]:  # taken, by it or by another
            at = self._place(first, second)
            if table[at]:
                return False
        table[at], table[at + 1] = first, second
        self._count += 1
        if self._count * 4 > self._slots * 3:
            self._grow()
        return True

    def _place(self, first: int, second: int) -> int:
        """Where a digest stands, or the first free place from its own on."""
        table, end = self._table, 2 * self._slots
        at = first % self._slots * 2
        while (found := table[at]) and (found != first or table[at + 1] != second):
            at = at + 2 if at + 2 < end else 0
        return at

    def _grow(self) -> None:
        old = self._table
        self._slots += self._slots // 2
        self._table = _empty(self._slots)
        view = memoryview(old)  # its halves are no copies
        for first, second in zip(view[::2], view[1::2], strict=True):
            if first:
                at = self._place(first, second)
                self._table[at], self._table[at + 1] = first, second


def _empty(slots: int) -> array[int]:
    return array("Q", bytes(slots * _DIGEST_BYTES))


def _digest(text: str) -> tuple[int, int]:
    """Both halves; the first is not 0, as that marks a free place."""
    first, second = _HALVES(blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest())
    return first or 1, second


def deduplicated(texts: Iterable[str]) -> Iterator[str]:
    """The texts without exact repetitions, in order."""
    seen = Seen()
    return (text for text in texts if seen.add(text))
