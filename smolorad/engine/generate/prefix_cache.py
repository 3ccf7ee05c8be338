"""Prefix cache: KV caches of finished sequences, reused by prompts that share a prefix.

An entry is a sequence of tokens with its KV cache. A new prompt takes the longest prefix that it shares with an entry of the
same key; the keys and values of that prefix are copied, so that both sequences continue independently. A key stands for the
weights, and is empty for the base alone: with another adapter the same tokens have other values. `prefix_store.py` keeps
entries on disk, too, where the owner wants that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, Self

import numpy as np

from smolorad.engine.generate.prefix_writer import StoredPrefixes
from smolorad.engine.native.kv_cache import KvCache

LIMIT_BYTES = 256 * 2**20
# Shorter prefixes are computed as fast as they are found.
_SHORTEST = 8
# An entry with less than an eighth of its tokens beside another entry's is not worth its memory.
_LITTLE = 8
_LONG = "\0long"  # after a key


class Cache(Protocol):
    """Keys and values of a sequence."""

    @property
    def shareable(self) -> bool:
        """Whether a prefix of it is the cache of that prefix."""

    def nbytes_of(self, tokens: int) -> int:
        """Bytes of the keys and values of `tokens` tokens."""

    def begin_with(self, other: Any, tokens: int) -> None:
        """Copies the first tokens of another cache of its kind into this one, which is empty."""

    def fitting(self, tokens: int) -> Self:
        """Its first tokens, in no more memory than they need: this cache, or a copy."""


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
    """At most `limit_bytes` of entries; the least recently used goes first."""

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
        """The longest prefix of `ids` that an entry has, but for the last token, which must be computed; None if short."""
        wanted = np.asarray(ids[:-1])
        shared = {number: _shared(wanted, entry.ids) for number, entry in self._entries.items() if entry.key == key}
        best = max(shared, key=shared.__getitem__, default=None)
        if best is None or shared[best] < _SHORTEST:
            return None
        self._entries.move_to_end(best)
        return CachedPrefix(self._entries[best].cache, shared[best])

    def keep(self, key: str, ids: Sequence[int], cache: Cache) -> Cache | None:
        """Keeps the KV cache of `ids`, which does not change any more, if it fits; that cache or a copy, None if it is no use.

        Entries with the same prefix go if they have little or nothing beside it: the same instructions with other questions are
        kept once.
        """
        if len(ids) < _SHORTEST or not cache.shareable:
            return None
        cache = cache.fitting(len(ids))
        new = _Entry(key, np.asarray(ids), cache, cache.nbytes_of(len(ids)))
        for number, entry in list(self._entries.items()):
            if entry.key == key and len(entry.ids) - _shared(new.ids, entry.ids) <= len(entry.ids) // _LITTLE:
                del self._entries[number]
        self._entries[next(self._numbers)] = new
        while self._entries and self.nbytes > self._limit:
            self._entries.popitem(last=False)
        return cache

    def of(self, key: str, stored: StoredPrefixes | None = None) -> AdapterPrefixes:
        """The entries of a key, and what is on disk of the same adapter."""
        return AdapterPrefixes(self, key, stored)

    def forget(self, key: str) -> None:
        """Drops the entries of a key, those of long texts too."""
        keys = (key, key + _LONG)
        for number in [number for number, entry in self._entries.items() if entry.key in keys]:
            del self._entries[number]


@dataclass(frozen=True, slots=True)
class AdapterPrefixes:
    """The entries of one adapter, or of the base alone."""

    cache: PrefixCache
    key: str
    stored: StoredPrefixes | None = None  # on disk

    def of_long_texts(self) -> AdapterPrefixes:
        """The entries of texts that the model computes as long ones: their keys are rotated in another way."""
        return AdapterPrefixes(self.cache, self.key + _LONG, self.stored.of_long_texts() if self.stored is not None else None)

    def find(self, ids: Sequence[int]) -> CachedPrefix | None:
        """As `PrefixCache.find`."""
        return self.cache.find(self.key, ids)

    def begin(self, ids: Sequence[int], cache: Cache) -> int:
        """Copies into a cache, which is empty, the longest prefix of `ids` that is in memory or on disk; its tokens."""
        found = self.find(ids)
        if found is not None:
            cache.begin_with(found.cache, found.length)
        if self.stored is not None and isinstance(cache, KvCache):
            self.stored.extend(ids, cache)
            return cache.length
        return found.length if found is not None else 0

    def keep(self, ids: Sequence[int], cache: Cache) -> None:
        """As `PrefixCache.keep`; on disk, too."""
        kept = self.cache.keep(self.key, ids, cache)
        if self.stored is not None and isinstance(kept, KvCache):
            self.stored.keep(ids, kept)


def _shared(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> int:
    """How many leading tokens two sequences share."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
