"""Keys and values of one sequence, in memory that is taken once: transformers writes into it, and so does the native step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


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
        return int(self.layers[0].get_seq_length())

    def advance(self, tokens: int) -> None:
        """Tokens whose keys and values somebody wrote into `tensor`."""
        for layer in self.layers:
            layer.take(layer.keys.shape[-2] + tokens)

    def begin_with(self, other: KvCache, tokens: int) -> None:
        """Copies the first tokens of another one of the same model into this one, which is empty."""
        self.tensor[..., :tokens, :].copy_(other.tensor[..., :tokens, :])
        self.advance(tokens)

    def crop(self, max_length: int) -> None:
        """Forgets what comes after the first `max_length` tokens."""
        for layer in self.layers:
            layer.take(max_length)


class _Layer(DynamicLayer):
    def __init__(self, room: Tensor) -> None:
        super().__init__()
        self._room = room.unsqueeze(1)  # (2, batch 1, heads, capacity, head_dim)
        self.dtype, self.device = room.dtype, room.device
        self.is_initialized = True
        self.take(0)

    def take(self, length: int) -> None:
        """The first `length` tokens are what is there."""
        self.keys, self.values = self._room[0, :, :, :length], self._room[1, :, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Adds (1, heads, tokens, head_dim) of keys and values; all that are there now."""
        begin = self.keys.shape[-2]
        self.take(begin + key_states.shape[-2])
        self.keys[:, :, begin:] = key_states
        self.values[:, :, begin:] = value_states
        return self.keys, self.values
