"""The compiled library for decoding: its threads, packed matrices, and products with them."""

from __future__ import annotations

import ctypes
import itertools
import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.native.row_source import in_multiples
from smolorad.engine.native.structs import DECODE_STRUCTS, MatrixStruct, Pointer, check_structs
from smolorad.engine.runtime.buffers import allocate

GROUP = 32  # columns that share a scale in a packed matrix
BLOCK = 16  # rows that lie together in a packed matrix
# Relative to the squares of the weights. Weights that come from four bits lose less, others ten times as much.
_NEAR_FOUR_BITS = 5e-4


class Format(IntEnum):
    """How a matrix's numbers are kept, as matrix.h numbers them."""

    FP32 = 0
    BF16 = 1
    INT8 = 2
    INT4 = 3
    INT5 = 4


# numpy has no bfloat16: its 16 bits stand in an unsigned integer.
FORMAT_OF: dict[np.dtype[Any], Format] = {np.dtype(np.float32): Format.FP32, np.dtype(np.uint16): Format.BF16}


# Bytes of a block's group, and of what stands before all of them, as matrix.h lays them out.
_GROUP_BYTES = {
    Format.INT8: BLOCK * (GROUP + 2),
    Format.INT4: BLOCK * (GROUP // 2 + 2),
    Format.INT5: BLOCK * (GROUP // 2 + GROUP // 8 + 2),
}
_UNIT_BYTES = {Format.INT8: 0, Format.INT4: 4 * BLOCK, Format.INT5: 4 * BLOCK}


def packed_nbytes(format: Format, rows: int, cols: int) -> int:
    """Bytes of a packed matrix, as the library packs it."""
    return -(-rows // BLOCK) * (cols // GROUP * _GROUP_BYTES[format] + _UNIT_BYTES[format])


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights (rows, cols): where they are, or a packed copy."""

    format: Format
    rows: int
    cols: int
    values: NDArray[Any]  # contiguous; packed: bytes

    @classmethod
    def of(cls, weight: NDArray[Any]) -> Matrix:
        """A contiguous array in FP32 or BF16, where it is; raises ValueError for another."""
        if weight.dtype not in FORMAT_OF or weight.ndim != 2 or not weight.size or not weight.flags.c_contiguous:
            raise ValueError(f"an array of {weight.shape} in {weight.dtype} is no matrix that the library reads")
        return cls(FORMAT_OF[weight.dtype], weight.shape[0], weight.shape[1], weight)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes

    def struct(self) -> MatrixStruct:
        """As C reads it; the matrix must outlive it."""
        return MatrixStruct(self.values.ctypes.data, self.format, self.rows, self.cols)


class Library:
    """The library with its threads. Its calls come from one thread at a time."""

    def __init__(self, path: str, threads: int) -> None:
        """Raises OSError if it cannot be opened or the system refuses threads, and Internal if its structures are not ours."""
        library = ctypes.CDLL(path)
        check_structs(library, DECODE_STRUCTS)
        self.open = _function(library.smolora_open, Pointer, Pointer, Pointer)
        self.step = _function(library.smolora_step, ctypes.c_int, Pointer, Pointer, ctypes.c_int, Pointer)
        self.close = _function(library.smolora_close, None, Pointer)
        self._min_prefill_tokens = _function(library.smolora_min_prefill_tokens, ctypes.c_int, ctypes.c_int)
        self._packed_bytes = _function(library.smolora_packed_bytes, ctypes.c_size_t, *(ctypes.c_int,) * 3)
        self._pack = _function(library.smolora_pack, None, Pointer, Pointer, ctypes.c_int, Pointer, Pointer)
        self._int4_error = _function(library.smolora_int4_error, ctypes.c_float, Pointer, Pointer, Pointer)
        self._multiply = _function(library.smolora_multiply, None, Pointer, Pointer, Pointer, ctypes.c_int, Pointer, Pointer)
        open_pool = _function(library.smolora_pool_open, Pointer, ctypes.c_int)
        close_pool = _function(library.smolora_pool_close, None, Pointer)
        self.threads = threads
        self.build = Path(path).parent.name  # a sum over its sources, how they were compiled, and this processor
        self.pool = open_pool(threads)
        if not self.pool:
            raise OSError("the system refuses more threads")
        weakref.finalize(self, close_pool, self.pool)

    def min_prefill_tokens(self, format: Format) -> int:
        """From how many tokens on a step of one sequence takes them together, each at much less cost; 0: never."""
        return int(self._min_prefill_tokens(format))

    def pack(self, weight: NDArray[Any], format: Format, *, prefer_int4: bool = False) -> Matrix:
        """A packed copy (INT8, INT5 or INT4) of a contiguous FP32 or BF16 matrix whose columns are a multiple of GROUP.

        Raises ValueError for another.
        """
        source = Matrix.of(weight)
        return self.pack_rows([weight], source.rows, source.cols, format, prefer_int4=prefer_int4)

    def suits_int4(self, weight: NDArray[Any]) -> bool:
        """Whether a contiguous FP32 or BF16 matrix loses next to nothing in INT4, by its first rows, as one of four bits."""
        cols = weight.shape[1]
        if cols % GROUP or not len(weight):
            return False
        row, block = np.empty(cols, np.float32), np.empty(self._packed_bytes(Format.INT4, 1, cols), np.uint8)
        source = Matrix.of(weight[:BLOCK]).struct()
        return bool(self._int4_error(ctypes.byref(source), row.ctypes.data, block.ctypes.data) < _NEAR_FOUR_BITS)

    def pack_rows(
        self, pieces: Iterable[NDArray[Any]], rows: int, cols: int, format: Format, *, prefer_int4: bool = False
    ) -> Matrix:
        """As `pack`, of a matrix that comes in pieces of its rows; raises ValueError where these are not `rows` together.

        With `prefer_int4` it is packed as INT4 where that loses next to nothing.
        """
        if format in FORMAT_OF.values() or cols % GROUP:
            raise ValueError(f"{cols} columns cannot be packed as {format.name}")
        blocks = in_multiples(pieces, BLOCK)
        if prefer_int4:  # the first rows decide, however the pieces are cut
            first = next(blocks, np.empty((0, cols), np.float32))
            format = Format.INT4 if self.suits_int4(first) else format
            blocks = itertools.chain([first], blocks)
        nbytes, block = self._packed_bytes(format, rows, cols), self._packed_bytes(format, 1, cols)
        # Straight from the system: beside what is read meanwhile, the allocator would leave gaps of half their size.
        values = np.frombuffer(allocate(nbytes, huge_pages=True), np.uint8, nbytes)
        room = np.empty((self.threads, cols), np.float32)
        done = 0
        for piece in blocks:
            if piece.shape[1:] != (cols,) or done + len(piece) > rows:
                raise ValueError(f"rows of {piece.shape} are not those of a matrix of {(rows, cols)}")
            source = Matrix.of(piece).struct()
            self._pack(self.pool, ctypes.byref(source), format, values.ctypes.data + done // BLOCK * block, room.ctypes.data)
            done += len(piece)
        if done != rows:
            raise ValueError(f"a matrix of {rows} rows has {done}")
        return Matrix(format, rows, cols, values)

    def multiply(self, x: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
        """x (..., cols), contiguous, times the matrix's transpose: (..., rows); raises ValueError for another x."""
        if x.dtype != np.float32 or x.ndim < 1 or x.shape[-1] != matrix.cols or not x.flags.c_contiguous:
            raise ValueError(f"an array of {x.shape} in {x.dtype} does not go with {matrix.cols} columns")
        out = np.empty((*x.shape[:-1], matrix.rows), dtype=np.float32)
        room = np.empty(2 * x.size + 64 + 12 * (x.size // GROUP), dtype=np.uint8)
        struct = matrix.struct()
        count = math.prod(x.shape[:-1])
        self._multiply(self.pool, ctypes.byref(struct), x.ctypes.data, count, out.ctypes.data, room.ctypes.data)
        return out


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """Memory of `nbytes`, not set: a vector of 64 bytes in it does not lie across two lines of the cache."""
    room = np.empty(nbytes + 63, dtype=np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + nbytes]


def aligned_fp32(*shape: int) -> NDArray[np.float32]:
    """An array of `aligned` memory, not set."""
    return aligned(4 * math.prod(shape)).view(np.float32).reshape(shape)


def aligned_copy(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same numbers in `aligned` memory, row after row."""
    copy = aligned_fp32(*array.shape)
    copy[...] = array
    return copy


def _function(function: ctypes._NamedFuncPointer, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
    function.restype, function.argtypes = result, arguments
    return function
