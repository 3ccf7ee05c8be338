"""The interface by which generation runs a model that the native step does not compute alone."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class CacheSupport(Enum):
    """In which steps a model computes correct logits with a cache."""

    CHUNKS = "any tokens after any others"
    SINGLE_TOKENS = "the prompt at once, then a token at a time"
    NONE = "the whole text for every token, without a cache"


class ModelRunner(Protocol):
    """A model that computes logits, such as `TorchRunner`."""

    cache_support: CacheSupport
    short_context: int  # a sequence of more tokens is computed in another way from its first token on; 0: none is

    def cache(self) -> Any | None:
        """An empty cache; None where the model works without one."""

    def compute(self, ids: NDArray[np.int64], cache: Any | None, begin: int) -> NDArray[np.float32]:
        """The logits (1, vocabulary) after the last of `ids` (tokens,); `cache` has the `begin` tokens before them."""
