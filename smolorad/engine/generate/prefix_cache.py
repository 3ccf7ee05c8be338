"""Keys and values of what was said before, for whoever begins the same way.

An entry is a sequence of tokens with its cache. A new prompt takes the longest beginning that it shares with any entry of the
same key; the keys and values of that beginning are copied, so that both go on as they like. A key is the adapter's, empty for
none: under another adapter the same tokens have other values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, Self

import numpy as np

LIMIT_BYTES = 256 * 2**20
# Shorter ones are computed as fast as they are found.
_SHORTEST = 8
# An entry that has less than an eighth beside what another one has, too, is not worth its memory.
_LITTLE = 8


class Cache(Protocol):
    """Keys and values of a sequence."""

    @property
    def shareable(self) -> bool:
        """Whether a beginning of it is the cache of the beginning."""

    def nbytes_of(self, tokens: int) -> int:
        """Bytes of the keys and values of so many tokens."""

    def begin_with(self, other: Any, tokens: int) -> None:
        """Copies the first tokens of another one of its kind into this one, which is empty."""

    def fitting(self, tokens: int) -> Self:
        """Its first tokens, in no more room than they need: this one, or a copy."""


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """What a prompt shares with an entry: the first `length` tokens of `cache`."""

    cache: Cache
    length: int


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    ids: np.ndarray[Any, np.dtype[np.int64]]
    cache: Cache
    nbytes: int


class PrefixCache:
    """At most so many bytes of entries; the one that was not used for the longest goes first."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values in it."""
        return sum(entry.nbytes for entry in self._entries.values())

    def find(self, key: str, ids: Sequence[int]) -> CachedPrefix | None:
        """The longest beginning of `ids` that an entry has; one token at least is left to compute. None for next to nothing."""
        wanted = np.asarray(ids[:-1])
        shared = {number: _shared(wanted, entry.ids) for number, entry in self._entries.items() if entry.key == key}
        best = max(shared, key=shared.__getitem__, default=None)
        if best is None or shared[best] < _SHORTEST:
            return None
        self._entries.move_to_end(best)
        return CachedPrefix(self._entries[best].cache, shared[best])

    def keep(self, key: str, ids: Sequence[int], cache: Cache) -> None:
        """Remembers the keys and values of `ids`, which nobody changes any more.

        Entries that begin like it go, if they have little or nothing else: the same instructions with other questions are kept
        but once.
        """
        if len(ids) < _SHORTEST or not cache.shareable:
            return
        cache = cache.fitting(len(ids))
        new = _Entry(key, np.asarray(ids), cache, cache.nbytes_of(len(ids)))
        for number, entry in list(self._entries.items()):
            if entry.key == key and len(entry.ids) - _shared(new.ids, entry.ids) <= len(entry.ids) // _LITTLE:
                del self._entries[number]
        self._entries[next(self._numbers)] = new
        while self._entries and self.nbytes > self._limit:
            self._entries.popitem(last=False)

    def forget(self, key: str) -> None:
        """Drops the entries of a key."""
        for number in [number for number, entry in self._entries.items() if entry.key == key]:
            del self._entries[number]


def _shared(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
