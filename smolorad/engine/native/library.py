"""The compiled library as Python sees it: its structures, its threads, packed matrices, and products with them."""

from __future__ import annotations

import ctypes
import math
import weakref
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

GROUP = 32  # columns that share a scale in a packed matrix
Pointer = ctypes.c_void_p


class Format(IntEnum):
    """How a matrix's numbers are kept, as matrix.h numbers them."""

    FP32 = 0
    BF16 = 1
    INT8 = 2
    INT4 = 3


FORMAT_OF = {torch.float32: Format.FP32, torch.bfloat16: Format.BF16}


class MatrixStruct(ctypes.Structure):
    _fields_ = (("values", Pointer), ("format", ctypes.c_int32), ("rows", ctypes.c_int32), ("cols", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights (rows, cols): torch's own tensor, or a packed copy."""

    format: Format
    rows: int
    cols: int
    values: Tensor  # torch's own, contiguous; packed: bytes

    @classmethod
    def of(cls, weight: Tensor) -> Matrix:
        """A contiguous FP32 or BF16 tensor on the CPU, where it is."""
        return cls(FORMAT_OF[weight.dtype], weight.shape[0], weight.shape[1], weight)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.values.numel() * self.values.element_size()

    def struct(self) -> MatrixStruct:
        """As C reads it; the matrix must outlive it."""
        return MatrixStruct(self.values.data_ptr(), self.format, self.rows, self.cols)


class Library:
    """The library with its threads. Its calls come from one thread at a time."""

    def __init__(self, path: str, threads: int) -> None:
        """Raises OSError where it cannot be opened, or threads cannot be had."""
        library = ctypes.CDLL(path)
        self.open = _function(library.smolora_open, Pointer, Pointer, Pointer)
        self.step = _function(library.smolora_step, ctypes.c_int, Pointer, Pointer, ctypes.c_int, Pointer)
        self.close = _function(library.smolora_close, None, Pointer)
        self._many = _function(library.smolora_many, ctypes.c_int, ctypes.c_int)
        self._packed_bytes = _function(library.smolora_packed_bytes, ctypes.c_size_t, *(ctypes.c_int,) * 3)
        self._pack = _function(library.smolora_pack, None, Pointer, Pointer, ctypes.c_int, Pointer)
        self._multiply = _function(library.smolora_multiply, None, Pointer, Pointer, Pointer, ctypes.c_int, Pointer, Pointer)
        open_pool = _function(library.smolora_pool_open, Pointer, ctypes.c_int)
        close_pool = _function(library.smolora_pool_close, None, Pointer)
        self.threads = threads
        self.pool = open_pool(threads)
        if not self.pool:
            raise OSError("no threads can be had")
        weakref.finalize(self, close_pool, self.pool)

    def many(self, format: Format) -> int:
        """From how many tokens on a step of one sequence takes them together, each at much less cost; 0: never."""
        return int(self._many(format))

    def pack(self, weight: Tensor, format: Format) -> Matrix:
        """A packed copy (INT8 or INT4) of a contiguous FP32 or BF16 matrix whose columns are a multiple of GROUP."""
        source = Matrix.of(weight)
        values = torch.empty(self._packed_bytes(format, source.rows, source.cols) + 63, dtype=torch.uint8)
        values = values[-values.data_ptr() % 64 :]  # a vector of 64 bytes should not lie across two lines of the cache
        self._pack(self.pool, ctypes.byref(source.struct()), format, values.data_ptr())
        return Matrix(format, source.rows, source.cols, values)

    def multiply(self, x: Tensor, matrix: Matrix) -> Tensor:
        """x (..., cols) times the matrix's transpose: (..., rows) in fp32."""
        vectors = x.to(torch.float32).contiguous()
        count = math.prod(x.shape[:-1])
        out = torch.empty((*x.shape[:-1], matrix.rows))
        numbers = vectors.numel()
        room = torch.empty(2 * numbers + 64 + 12 * (numbers // GROUP), dtype=torch.uint8)
        struct = matrix.struct()
        self._multiply(self.pool, ctypes.byref(struct), vectors.data_ptr(), count, out.data_ptr(), room.data_ptr())
        return out


def _function(function: ctypes._NamedFuncPointer, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
    function.restype, function.argtypes = result, arguments
    return function
