"""Number formats in numpy, which has no bfloat16: its 16 bits are stored as an unsigned integer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]  # (tokens,): prompt and generated tokens
Scores = NDArray[np.float32]  # (vocabulary,): logits, as they are processed

# As safetensors names them.
STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
}


def to_fp32(array: NDArray[Any]) -> NDArray[np.float32]:
    """The numbers of an array of STORED; itself where it is fp32."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def to_bf16(array: NDArray[Any]) -> NDArray[np.uint16]:
    """The bfloat16 nearest to each number of an array of STORED, ties to even, as torch rounds; itself where it is that."""
    if array.dtype == np.uint16:
        return array
    bits = to_fp32(array).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(array)] = 0x7FC0
    return rounded
