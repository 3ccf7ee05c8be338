"""Weights that are decoded while they are read, as those of GGUF and MLX: all others are as the files have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from smolorad.safetensors_file import StoredTensor


class DecodedWeights(Protocol):
    """The weights of a model in a format of others, under transformers' names."""

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """As the safetensors of the same model would have them; `format` is how they are written anew."""

    @property
    def size(self) -> int:
        """Bytes of the files."""

    def sums(self, known: Mapping[str, str]) -> Mapping[str, str]:
        """The files' SHA-256, by names that stay when a file is moved; `known` may have some of them.

        Raises NotFound, and Damaged for files that changed.
        """

    def read(self, name: str) -> Iterator[NDArray[Any]]:
        """The numbers of a tensor in order, in pieces, each FP32, FP16, or BF16 as uint16. Raises as `sums`."""
