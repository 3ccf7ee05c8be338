"""A model's metadata, each value checked as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smolorad.errors import Damaged

ARCHITECTURE = "general.architecture"
_MAX_INT = 2**31 - 1
_MAX_FLOAT = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The keys of a GGUF file, those of its architecture by their short names; raises Damaged for values of the wrong type."""

    path: Path  # for messages
    values: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]  # the shape of each, by name

    @property
    def architecture(self) -> str:
        """As llama.cpp names it."""
        name = self.values.get(ARCHITECTURE)
        if not isinstance(name, str) or not name:
            raise self.damaged(ARCHITECTURE)
        return name

    def has(self, tensor: str) -> bool:
        """Whether there is a tensor of this name."""
        return tensor in self.tensors

    def length(self, tensor: str) -> int:
        """The number of rows of a tensor."""
        if tensor not in self.tensors:
            raise Damaged(f"{self.path} has no tensor {tensor}; download it again.")
        return self.tensors[tensor][0]

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number from 0; where it is a list by layer, all entries must be the same."""
        value = self._single(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_INT:
            raise self.damaged(key)
        return value

    def count(self, key: str) -> int:
        """A whole number from 1, read as `whole`."""
        if not (value := self.whole(key)):
            raise self.damaged(key)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A number. Files have them in 32 bits: the shortest decimal that gives these bits is what was meant."""
        value = self._single(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_FLOAT:
            raise self.damaged(key)
        return float(np.format_float_positional(np.float32(value), unique=True))

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above 0, read as `real`."""
        if (value := self.real(key, default)) <= 0:
            raise self.damaged(key)
        return value

    def optional(self, key: str) -> Any:
        """A value, as it is, or None."""
        return self.values.get(f"{self.architecture}.{key}")

    def flags(self, key: str, count: int) -> Sequence[bool] | None:
        """A list of `count` truths, or None."""
        value = self.optional(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or not all(isinstance(one, bool) for one in value):
            raise self.damaged(key)
        return value

    def damaged(self, key: str) -> Damaged:
        """The error for a value that is missing or cannot be."""
        shown = key if key == ARCHITECTURE else f"{self.values.get(ARCHITECTURE)}.{key}"
        found = self.values.get(shown)
        what = f"has {str(found)[:60]!r} as {shown}" if found is not None else f"has no {shown}"
        return Damaged(f"{self.path} {what}, which the model cannot be built from; download it again.")

    def _single(self, key: str, default: Any) -> Any:
        value = self.optional(key)
        if value is None:
            value = default
        if isinstance(value, list):
            if not value or any(one != value[0] for one in value):
                raise self.damaged(key)
            return value[0]
        return value
