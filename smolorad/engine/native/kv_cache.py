"""The KV cache of one sequence, allocated once; the native step and torch write into it."""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.runtime.buffers import BufferPool

_SLACK_BYTES = 2**18  # not worth a copy


class KvCache:
    """Room for `capacity` tokens; `array` is (layers, 2, key-value heads, capacity, width), keys before values.

    A row has head_dim numbers of `native.library.FORMAT_OF`, or a row's bytes in INT8. `length` tokens have keys and values.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        capacity: int,
        width: int,
        dtype: np.dtype[Any],
        expected_tokens: int = 0,
        pool: BufferPool | None = None,
        *,
        is_long: bool = False,
    ) -> None:
        """`expected_tokens`: the sequence surely gets that long. Memory comes from `pool`, and returns to it when unused.

        `is_long`: its keys are rotated as the decoder rotates those of long sequences.
        """
        shape = (layers, 2, heads, capacity, width)
        self._pool = BufferPool() if pool is None else pool
        # Pages that are never written cost nothing, so the whole capacity is allocated at once. Not so with huge pages, which
        # numpy uses: one page may have the first tokens of every head.
        memory = self._pool.acquire(math.prod(shape) * dtype.itemsize, huge_pages=2 * expected_tokens >= capacity)
        self.array: NDArray[Any] = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
        weakref.finalize(self, self._pool.release, memory).atexit = False
        self.capacity = capacity
        self.is_long = is_long
        self.length = 0

    @functools.cached_property
    def addresses(self) -> tuple[Any, Any]:
        """The addresses of each layer's keys and values: two arrays for C."""
        layers = len(self.array)
        begin, half = self.array.ctypes.data, self.array.strides[1]
        places = [begin + half * i for i in range(2 * layers)]
        kind = ctypes.c_void_p * layers
        return kind(*places[::2]), kind(*places[1::2])

    @property
    def shareable(self) -> bool:
        """Whether its first tokens are the cache of a prefix."""
        return True

    def nbytes_of(self, tokens: int) -> int:
        """Bytes of the keys and values of this many tokens."""
        return self.array.nbytes // self.capacity * tokens

    @property
    def used_nbytes(self) -> int:
        """Bytes of the keys and values that it has."""
        return self.nbytes_of(self.length)

    def advance(self, tokens: int) -> None:
        """Counts tokens whose keys and values are now in `array`."""
        self.length += tokens

    def begin_with(self, other: KvCache, tokens: int) -> None:
        """Copies the first tokens of another cache of the same model into this one, which is empty."""
        self.array[..., :tokens, :] = other.array[..., :tokens, :]
        self.advance(tokens)

    def fitting(self, tokens: int) -> KvCache:
        """Its first tokens, with no more capacity than they need: this cache, or a copy.

        Unwritten pages take no memory, but the part of each head takes whole pages.
        """
        layers, _, heads, _, width = self.array.shape
        wanted = self.nbytes_of(tokens)
        if self.array.nbytes <= wanted + max(wanted // 8, _SLACK_BYTES):
            return self
        copy = KvCache(layers, heads, tokens, width, self.array.dtype, tokens, self._pool, is_long=self.is_long)
        copy.begin_with(self, tokens)
        return copy

    def crop(self, tokens: int) -> None:
        """Drops everything after the first tokens."""
        self.length = tokens
