"""Keys and values of one sequence, in memory that is taken once: the native step writes into it, and whoever else computes."""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.runtime.buffers import BufferPool

_SLACK_BYTES = 2**18  # that no copy is worth


class KvCache:
    """Room for `capacity` tokens; `array` is (layers, 2, key-value heads, capacity, head_dim), keys before values.

    Its numbers are of `native.library.FORMAT_OF`. `length` tokens have keys and values.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        capacity: int,
        head_dim: int,
        dtype: np.dtype[Any],
        expected_tokens: int = 0,
        pool: BufferPool | None = None,
    ) -> None:
        """`expected_tokens`: the sequence surely gets that long. Memory comes from `pool`, and returns to it when unused."""
        shape = (layers, 2, heads, capacity, head_dim)
        self._pool = BufferPool() if pool is None else pool
        # Pages that nobody writes cost nothing, so the whole capacity may be taken at once. Not so in large pages, as numpy's
        # own memory is: each may hold the beginning of every head.
        memory = self._pool.acquire(math.prod(shape) * dtype.itemsize, huge_pages=2 * expected_tokens >= capacity)
        self.array: NDArray[Any] = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
        weakref.finalize(self, self._pool.release, memory).atexit = False
        self.capacity = capacity
        self.length = 0

    @functools.cached_property
    def addresses(self) -> tuple[Any, Any]:
        """Where the keys of each layer begin, and the values: two arrays of C."""
        layers = len(self.array)
        begin, half = self.array.ctypes.data, self.array.strides[1]
        places = [begin + half * i for i in range(2 * layers)]
        kind = ctypes.c_void_p * layers
        return kind(*places[::2]), kind(*places[1::2])

    @property
    def shareable(self) -> bool:
        """Whether a beginning of it is the cache of the beginning."""
        return True

    def nbytes_of(self, tokens: int) -> int:
        """Bytes of the keys and values of so many tokens."""
        return self.array.nbytes // self.capacity * tokens

    def advance(self, tokens: int) -> None:
        """Tokens whose keys and values somebody wrote into `array`."""
        self.length += tokens

    def begin_with(self, other: KvCache, tokens: int) -> None:
        """Copies the first tokens of another one of the same model into this one, which is empty."""
        self.array[..., :tokens, :] = other.array[..., :tokens, :]
        self.advance(tokens)

    def fitting(self, tokens: int) -> KvCache:
        """Its first tokens, in no more room than they need: this one, or a copy.

        What is not written has no memory, but every head's part begins anew, and takes whole pages.
        """
        layers, _, heads, _, head_dim = self.array.shape
        wanted = self.nbytes_of(tokens)
        if self.array.nbytes <= wanted + max(wanted // 8, _SLACK_BYTES):
            return self
        copy = KvCache(layers, heads, tokens, head_dim, self.array.dtype, tokens, self._pool)
        copy.begin_with(self, tokens)
        return copy

    def crop(self, tokens: int) -> None:
        """Forgets what comes after the first tokens."""
        self.length = tokens
