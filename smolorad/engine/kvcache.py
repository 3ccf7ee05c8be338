"""Keys and values of one sequence, in memory that is taken once: transformers writes into it, and so does the native step."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_SLACK_BYTES = 2**18  # that no copy is worth


class KvCache(Cache):
    """Room for `capacity` tokens; `tensor` is (layers, 2, key-value heads, capacity, head_dim), keys before values.

    transformers' own cache grows by copying all of it for every token.
    """

    def __init__(self, layers: int, heads: int, capacity: int, head_dim: int, dtype: torch.dtype) -> None:
        # Pages that nobody writes cost nothing, so the whole capacity may be taken at once.
        self.tensor = torch.empty((layers, 2, heads, capacity, head_dim), dtype=dtype)
        self.capacity = capacity
        super().__init__(layers=[_Layer(self.tensor[layer]) for layer in range(layers)])

    @property
    def length(self) -> int:
        """How many tokens have keys and values."""
        return int(self.layers[0].length)

    @functools.cached_property
    def addresses(self) -> tuple[Any, Any]:
        """Where the keys of each layer begin, and the values: two arrays of C."""
        begin, half = self.tensor.data_ptr(), self.tensor.stride(1) * self.tensor.element_size()
        places = [begin + half * i for i in range(2 * len(self.layers))]
        kind = ctypes.c_void_p * len(self.layers)
        return kind(*places[::2]), kind(*places[1::2])

    def advance(self, tokens: int) -> None:
        """Tokens whose keys and values somebody wrote into `tensor`."""
        for layer in self.layers:
            layer.length += tokens

    def begin_with(self, other: KvCache, tokens: int) -> None:
        """Copies the first tokens of another one of the same model into this one, which is empty."""
        self.tensor[..., :tokens, :].copy_(other.tensor[..., :tokens, :])
        self.advance(tokens)

    def fitting(self, tokens: int) -> KvCache:
        """Its first tokens, in no more room than they need: this one, or a copy.

        What is not written has no memory, but every head's part begins anew, and takes whole pages.
        """
        layers, _, heads, _, head_dim = self.tensor.shape
        wanted = self.tensor.nbytes // self.capacity * tokens
        if self.tensor.nbytes <= wanted + max(wanted // 8, _SLACK_BYTES):
            return self
        copy = KvCache(layers, heads, tokens, head_dim, self.tensor.dtype)
        copy.begin_with(self, tokens)
        return copy

    def crop(self, max_length: int) -> None:
        """Forgets what comes after the first `max_length` tokens."""
        for layer in self.layers:
            layer.length = max_length


class _Layer(DynamicLayer):
    def __init__(self, room: Tensor) -> None:
        super().__init__()
        self._room = room.unsqueeze(1)  # (2, batch 1, heads, capacity, head_dim)
        self.dtype, self.device = room.dtype, room.device
        self.is_initialized = True
        self.length = 0

    # Views, made when transformers asks: the native step moves `length` for every token.

    @property
    def keys(self) -> Tensor:
        return self._room[0, :, :, : self.length]

    @keys.setter
    def keys(self, nothing: None) -> None:
        """What transformers begins with."""

    @property
    def values(self) -> Tensor:
        return self._room[1, :, :, : self.length]

    @values.setter
    def values(self, nothing: None) -> None:
        """What transformers begins with."""

    def get_seq_length(self) -> int:
        """How many tokens are there."""
        return self.length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Adds (1, heads, tokens, head_dim) of keys and values; all that are there now."""
        begin, self.length = self.length, self.length + key_states.shape[-2]
        keys, values = self.keys, self.values
        keys[:, :, begin:] = key_states
        values[:, :, begin:] = value_states
        return keys, values
