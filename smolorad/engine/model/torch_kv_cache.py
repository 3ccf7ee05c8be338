"""KV caches for transformers' models: in the native step's memory, or their own."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from smolorad.engine.native.kv_cache import KvCache
from smolorad.engine.native.torch_arrays import tensor_of


class TorchKvCache:
    """A model's own cache with the interface of `KvCache`."""

    def __init__(self, config: Any) -> None:
        self.cache: Cache = DynamicCache(config=config)

    @property
    def shareable(self) -> bool:
        """Whether its first tokens are the cache of a prefix: not so where a window, a state, or nothing is kept.

        Layers that keep something beside keys and values are DynamicLayers too.
        """
        layers = self.cache.layers
        return bool(layers) and all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers)

    def nbytes_of(self, tokens: int) -> int:
        """Bytes of the keys and values of this many tokens."""
        kept = (tensor[:, :, :tokens] for layer in self.cache.layers for tensor in (layer.keys, layer.values))
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    @property
    def used_nbytes(self) -> int:
        """Bytes of the keys and values that it has."""
        kept = (getattr(layer, part, None) for layer in self.cache.layers for part in ("keys", "values"))
        return sum(int(tensor.nbytes) for tensor in kept if tensor is not None)

    def begin_with(self, other: TorchKvCache, tokens: int) -> None:
        """Copies the first tokens of another one into this one, which is empty."""
        for at, layer in enumerate(other.cache.layers):
            self.cache.update(layer.keys[:, :, :tokens], layer.values[:, :, :tokens], at)

    def fitting(self, tokens: int) -> Self:
        """Itself: it never has more capacity than tokens."""
        return self


def as_transformers(cache: KvCache | TorchKvCache | None) -> Cache | None:
    """The cache as a model takes it in `past_key_values`; what the model adds is then in the given cache."""
    return _NativeCache(cache) if isinstance(cache, KvCache) else None if cache is None else cache.cache


class _NativeCache(Cache):
    """Has its full capacity from the start; transformers' own cache copies everything for every token."""

    def __init__(self, cache: KvCache) -> None:
        room = tensor_of(cache.array)
        super().__init__(layers=[_Layer(cache, room[layer], layer == len(room) - 1) for layer in range(len(room))])


class _Layer(DynamicLayer):
    def __init__(self, cache: KvCache, room: Tensor, is_last: bool) -> None:
        super().__init__()
        self._cache = cache
        self._room = room.unsqueeze(1)  # (2, batch 1, heads, capacity, head_dim)
        self._is_last = is_last
        self.dtype, self.device = room.dtype, room.device
        self.is_initialized = True
        self._length = cache.length

    # Views, made when transformers asks.

    @property
    def keys(self) -> Tensor:
        return self._room[0, :, :, : self._length]

    @keys.setter
    def keys(self, nothing: None) -> None:
        """transformers sets it to None at first."""

    @property
    def values(self) -> Tensor:
        return self._room[1, :, :, : self._length]

    @values.setter
    def values(self, nothing: None) -> None:
        """transformers sets it to None at first."""

    def get_seq_length(self) -> int:
        """The number of tokens."""
        return self._length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Adds (1, heads, tokens, head_dim) of keys and values; returns all."""
        begin, self._length = self._length, self._length + key_states.shape[-2]
        keys, values = self.keys, self.values
        keys[:, :, begin:] = key_states
        values[:, :, begin:] = value_states
        if self._is_last:
            self._cache.length = self._length
        return keys, values
