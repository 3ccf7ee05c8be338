"""A model as generation asks it, where the native step is not all that it needs."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class CacheSupport(Enum):
    """The steps in which a model computes a text rightly."""

    CHUNKS = "any tokens after any others"
    SINGLE_TOKENS = "the prompt at once, then a token at a time"
    NONE = "the whole text for every token, without a cache"


class ModelRunner(Protocol):
    """A model that computes by itself, as `forward.TorchSpeaker` does."""

    cache_support: CacheSupport

    def cache(self) -> Any | None:
        """An empty one; None where the model computes without."""

    def compute(self, ids: NDArray[np.int64], cache: Any | None, begin: int) -> NDArray[np.float32]:
        """The logits (1, vocabulary) after the last of `ids` (tokens,); `cache` has the `begin` tokens before them."""
