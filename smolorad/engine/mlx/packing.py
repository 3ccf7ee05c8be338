"""How MLX packs the numbers of a matrix, and what they are.

A row is one stream of bits, the first number in the lowest bits of the first word. Each group of columns of a row has a scale.
In the mode `affine` a number q is scale * q + bias; in the other modes (OCP Microscaling and NVFP4) it is scale * value, with q
the value as a small float, and the scale a float of 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.runtime.dtypes import to_fp32

AFFINE = "affine"
_AT_ONCE = 8  # numbers that fill whole bytes, whatever their bits


@dataclass(frozen=True, slots=True)
class Packing:
    """How a matrix is packed."""

    bits: int
    group_size: int  # columns that share a scale
    mode: str = AFFINE


# The bits and group sizes that MLX has in each mode, the default first.
MODES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    AFFINE: ((4, 1, 2, 3, 5, 6, 8), (64, 32, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}


def dequantized(
    words: NDArray[np.uint32], scales: NDArray[Any], biases: NDArray[Any] | None, packing: Packing
) -> NDArray[np.float32]:
    """The numbers of some rows, in fp32, with `biases` in the mode `affine` alone."""
    numbers = _unpacked(words, packing.bits)
    groups = (len(words), scales.shape[1], packing.group_size)
    if biases is not None:
        found = numbers.astype(np.float32).reshape(groups)
        found *= to_fp32(scales)[..., np.newaxis]
        found += to_fp32(biases)[..., np.newaxis]
    else:
        values, of_scales = _TABLES[packing.mode]
        found = values[numbers].reshape(groups)
        found *= of_scales[scales][..., np.newaxis]
    return found.reshape(len(words), -1)


def _unpacked(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """The numbers of rows of words, in order."""
    octets = words.view(np.uint8).reshape(len(words), -1)
    if bits == 8:
        return octets
    if bits in (1, 2, 4):
        parts = np.empty((*octets.shape, 8 // bits), dtype=np.uint8)
        for at in range(8 // bits):
            parts[..., at] = (octets >> np.uint8(bits * at)) & np.uint8(2**bits - 1)
        return parts.reshape(len(words), -1)
    runs = octets.reshape(len(words), -1, bits)
    joined = np.zeros(runs.shape[:2], dtype=np.uint64)
    for at in range(bits):
        joined |= runs[..., at].astype(np.uint64) << np.uint64(8 * at)
    numbers = np.empty((*joined.shape, _AT_ONCE), dtype=np.uint8)
    for at in range(_AT_ONCE):
        numbers[..., at] = (joined >> np.uint64(bits * at)) & np.uint64(2**bits - 1)
    return numbers.reshape(len(words), -1)


def _small_floats(exponent_bits: int, mantissa_bits: int) -> NDArray[np.float32]:
    """The value of every small float with a sign, of no infinities."""
    bits = np.arange(2 ** (1 + exponent_bits + mantissa_bits))
    mantissa, exponent = bits % 2**mantissa_bits, (bits >> mantissa_bits) % 2**exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    size = np.where(exponent > 0, 2**mantissa_bits + mantissa, mantissa) * 2.0 ** (
        np.maximum(exponent, 1) - bias - mantissa_bits
    )
    signed: NDArray[np.float32] = np.where(bits >> (exponent_bits + mantissa_bits), -size, size).astype(np.float32)
    return signed


def _e4m3() -> NDArray[np.float32]:
    values = _small_floats(4, 3)
    values[[0x7F, 0xFF]] = np.nan  # its only numbers that are none
    return values


def _powers() -> NDArray[np.float32]:
    """The value of every exponent without a mantissa (E8M0)."""
    return np.append(2.0 ** np.arange(-127, 128), np.nan).astype(np.float32)


# Of each mode, the values of numbers and those of scales.
_TABLES = {
    "mxfp4": (_small_floats(2, 1), _powers()),
    "mxfp8": (_e4m3(), _powers()),
    "nvfp4": (_small_floats(2, 1), _e4m3()),
}
