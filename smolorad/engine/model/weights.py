"""A model's weights in memory of the engine's own, read without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.domain import Dtype
from smolorad.engine.model.folder import tensors_of
from smolorad.engine.model.mapped_weights import ALIGNMENT, MappedWeights, write_to_file, write_to_memory
from smolorad.engine.runtime.dtypes import STORED, to_bf16, to_fp32
from smolorad.errors import Damaged, UnsupportedModel

# How each number format is kept; what is not here, torch alone has.
KEPT: Mapping[Dtype, np.dtype[Any]] = {Dtype.BFLOAT16: np.dtype(np.uint16), Dtype.FLOAT32: np.dtype(np.float32)}
_PIECE = 2**20  # numbers that are read at once
# Of a number, by what the name of its format begins with: what is not read stands between what is.
_BITS: Mapping[tuple[str, ...], int] = {
    ("F4",): 4,
    ("F6_",): 6,
    ("BOOL", "U8", "I8", "F8"): 8,
    ("U16", "I16", "F16", "BF16"): 16,
    ("U32", "I32", "F32"): 32,
    ("U64", "I64", "F64", "C64"): 64,
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters by name. Nothing that happens to the files they came from reaches them."""

    arrays: Mapping[str, NDArray[Any]]
    mapped_weights: MappedWeights | None


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a tensor stands."""

    path: Path
    begin: int  # bytes from the beginning of the file
    dtype: np.dtype[Any]
    count: int


def read_weights(
    files: Sequence[Path], parameters: Mapping[str, Sequence[int]], dtype: Dtype, *, mapped_below: Path | None = None
) -> Weights:
    """The parameters of these names and shapes, which the files have, in a format of KEPT.

    With `mapped_below`, where generation does not read them, in a file in that folder, if the disk has room. The files were
    checked by `folder.check`. Raises Damaged where one was changed since.
    """
    kept, stored = KEPT[dtype], _stored(files)
    pieces = [_pieces(stored[name], dtype) for name in parameters]
    sizes = [math.prod(shape) * kept.itemsize for shape in parameters.values()]
    mapped_weights = None if mapped_below is None else write_to_file(pieces, mapped_below)
    if mapped_weights is None:
        pieces = [_pieces(stored[name], dtype) for name in parameters]
    memory, places = mapped_weights or write_to_memory(pieces, sum(sizes) + ALIGNMENT * len(sizes))
    arrays: dict[str, NDArray[Any]] = {}
    for (name, shape), place in zip(parameters.items(), places, strict=True):
        arrays[name] = np.frombuffer(memory, kept, math.prod(shape), place).reshape(shape)
    return Weights(arrays, None if mapped_weights is None else MappedWeights(memory))


def _stored(files: Sequence[Path]) -> dict[str, _Stored]:
    """By name. Source of the layout: safetensors' README; an 8-byte length, so much JSON, then all tensors."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
        for name, format, shape in tensors_of([path]):
            count = math.prod(shape)
            if format in STORED:
                found[name] = _Stored(path, begin, STORED[format], count)
            begin += _nbytes(format, count, path)
    return found


def _nbytes(format: str, count: int, path: Path) -> int:
    bits = next((bits for names, bits in _BITS.items() if format.startswith(names)), None)
    if bits is None:
        raise UnsupportedModel(f"{path} holds numbers in {format}, which smolora does not know; save it in float32.")
    return count * bits // 8


def _pieces(stored: _Stored, dtype: Dtype) -> Iterator[memoryview]:
    convert = to_bf16 if dtype is Dtype.BFLOAT16 else to_fp32
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.begin)
        left = stored.count
        room = np.empty(min(left, _PIECE), dtype=stored.dtype)
        while left:
            piece = room[:left]
            if file.readinto(piece.data.cast("B")) != piece.nbytes:
                raise Damaged(f"{stored.path} was cut short while it was read; load the model again when it is whole.")
            yield np.ascontiguousarray(convert(piece)).data.cast("B")
            left -= len(piece)
