"""Reads a model's weights into memory of the engine's own, without torch."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smolorad.domain import Dtype
from smolorad.engine.model.decoded_weights import DecodedWeights
from smolorad.engine.model.mapped_weights import ALIGNMENT, MappedWeights, write_to_file, write_to_memory
from smolorad.engine.native.row_source import RowSource, in_multiples
from smolorad.engine.runtime.dtypes import STORED, to_bf16, to_fp32
from smolorad.errors import Damaged, NotFound
from smolorad.safetensors_file import SafetensorsFile, StoredTensor

# The array type of each number format that can be read without torch.
ARRAY_DTYPES: Mapping[Dtype, np.dtype[Any]] = {Dtype.BFLOAT16: np.dtype(np.uint16), Dtype.FLOAT32: np.dtype(np.float32)}
_CHUNK = 2**20  # numbers read at once
_File = SafetensorsFile | DecodedWeights
_Place = tuple[_File, StoredTensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters by name. Changing the files that they came from does not change them."""

    arrays: Mapping[str, NDArray[Any]]
    mapped_weights: MappedWeights | None


def read_weights(
    files: Sequence[_File],
    parameters: Mapping[str, Sequence[int]],
    dtype: Dtype,
    *,
    sources: Mapping[str, Sequence[str]] | None = None,
    transposed: Collection[str] = (),
    mapped_below: Path | None = None,
) -> Weights:
    """The parameters of these names and shapes, which the files have, in a format of ARRAY_DTYPES.

    `sources` names the stored tensors that give a parameter end to end, where they are not the one of its name.
    Those in `transposed` lie in memory column after column.
    With `mapped_below`, for weights that generation does not read, in a file in that folder, if the disk has room.
    Raises Damaged where a file was changed since its header was read, NotFound where one cannot be opened.
    """
    array_dtype = ARRAY_DTYPES[dtype]
    stored = _stored_tensors(files)

    def tensors() -> Iterator[Iterator[memoryview]]:
        for name in parameters:
            places = [stored[source] for source in (sources or {}).get(name, (name,))]
            read = _columns if name in transposed else _pieces
            yield itertools.chain.from_iterable(read(*place, dtype) for place in places)

    mapped = None if mapped_below is None else write_to_file(tensors(), mapped_below)
    sizes = [math.prod(shape) * array_dtype.itemsize for shape in parameters.values()]
    memory, places = mapped or write_to_memory(tensors(), sum(sizes) + ALIGNMENT * len(sizes))
    arrays: dict[str, NDArray[Any]] = {}
    for (name, shape), place in zip(parameters.items(), places, strict=True):
        order: Literal["F", "C"] = "F" if name in transposed else "C"
        arrays[name] = np.frombuffer(memory, array_dtype, math.prod(shape), place).reshape(shape, order=order)
    return Weights(arrays, None if mapped is None else MappedWeights(memory))


def row_sources(
    files: Sequence[_File],
    parameters: Mapping[str, Sequence[int]],
    dtype: Dtype,
    *,
    sources: Mapping[str, Sequence[str]],
    transposed: Collection[str] = (),
) -> dict[str, RowSource]:
    """The matrices of these names and shapes, to be read when they are packed. Parameters as in `read_weights`."""
    stored = _stored_tensors(files)

    def source(name: str, shape: tuple[int, ...]) -> RowSource:
        places = [stored[one] for one in sources.get(name, (name,))]
        columns = shape[0] if name in transposed else shape[-1]
        read = functools.partial(_rows_of, places, columns, dtype, name in transposed)
        return RowSource(shape, ARRAY_DTYPES[dtype], columns, read)

    return {name: source(name, tuple(shape)) for name, shape in parameters.items()}


def _rows_of(places: Sequence[_Place], columns: int, dtype: Dtype, transposed: bool) -> Iterator[NDArray[Any]]:
    """Whole rows of the tensors in these places, one after the other."""
    read = _columns if transposed else _pieces
    pieces = (np.frombuffer(piece, ARRAY_DTYPES[dtype]) for file, tensor in places for piece in read(file, tensor, dtype))
    for rows in in_multiples(pieces, columns):
        yield rows.reshape(-1, columns)


def _stored_tensors(files: Sequence[_File]) -> dict[str, _Place]:
    return {tensor.name: (file, tensor) for file in files for tensor in file.tensors}


def _pieces(file: _File, tensor: StoredTensor, dtype: Dtype) -> Iterator[memoryview]:
    convert = to_bf16 if dtype is Dtype.BFLOAT16 else to_fp32
    found = _stored(file, tensor) if isinstance(file, SafetensorsFile) else file.read(tensor.name)
    for piece in found:
        yield np.ascontiguousarray(convert(piece)).reshape(-1).data.cast("B")


def _stored(file: SafetensorsFile, tensor: StoredTensor) -> Iterator[NDArray[Any]]:
    """The numbers of a tensor as they are stored, in pieces; each piece is overwritten by the next."""
    stored_as = STORED[tensor.format]
    with _open(file) as opened:
        opened.seek(tensor.begin)
        left = tensor.count
        buffer = np.empty(min(left, _CHUNK), dtype=stored_as)
        while left:
            piece = buffer[:left]
            read = opened.readinto(piece.data.cast("B"))
            if read != piece.nbytes or not file.is_open_as(opened):  # it may change at any time
                raise _changed(file)
            yield piece
            left -= len(piece)


def _open(file: SafetensorsFile) -> FileIO:
    try:
        return file.path.open("rb", buffering=0)
    except OSError as error:
        raise NotFound(f"{file.path} is gone; bring it back, or load another model.") from error


def _columns(file: _File, tensor: StoredTensor, dtype: Dtype) -> Iterator[memoryview]:
    """The same of a matrix, column after column."""
    whole = bytearray()
    for piece in _pieces(file, tensor, dtype):  # `join` would collect them first, and each overwrites the last
        whole += piece
    yield np.ascontiguousarray(np.frombuffer(whole, ARRAY_DTYPES[dtype]).reshape(tensor.shape).T).data.cast("B")


def _changed(file: SafetensorsFile) -> Damaged:
    return Damaged(f"{file.path} was changed or cut short while it was read; load the model again when it is whole.")
