"""Caches whose rows are known, written to disk; for processes that import little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smolorad.engine.generate.prefix_store import PrefixStore, chain_of
from smolorad.engine.native.kv_cache import KvCache

MODEL = "ab" * 32
BASE = chain_of("", is_long=False)
ROOM = 2**30


def cache_of(ids: Sequence[int], dtype: str = "float32", capacity: int = 0) -> KvCache:
    """A cache whose every row depends on its token and all tokens before it."""
    cache = KvCache(2, 3, capacity or len(ids) + 3, 6, np.dtype(dtype))
    state, rows = 0, []
    for id in ids:
        state = (state * 31 + id + 1) % 251
        rows.append(state)
    places = np.arange(72).reshape(2, 2, 3, 1, 6)
    cache.array[..., : len(ids), :] = (places + np.array(rows, dtype=int).reshape(-1, 1)).astype(dtype)
    cache.advance(len(ids))
    return cache


def write(store: PrefixStore, ids: Sequence[int], chain: str = BASE, **cache: Any) -> None:
    """Writes the cache of some tokens, whole."""
    store.write(chain, ids, cache_of(ids, **cache), lambda: None)
