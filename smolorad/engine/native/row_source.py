"""A parameter that is read when it is packed, some rows at a time, so that it is never in memory as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def in_multiples(pieces: Iterable[NDArray[Any]], count: int) -> Iterator[NDArray[Any]]:
    """The same rows, or numbers, in pieces of a multiple of `count` but for the last; each may be overwritten by the next."""
    left: NDArray[Any] | None = None
    for piece in pieces:
        joined = piece if left is None else np.concatenate([left, piece])
        whole = len(joined) - len(joined) % count
        if whole:
            yield joined[:whole]
        left = joined[whole:].copy() if whole < len(joined) else None
    if left is not None:
        yield left


class RowSource:
    """The rows of a parameter in the order of its file. Reading it from the first to the last row reads the file once."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], columns: int, read: Callable[[], Iterator[NDArray[Any]]]
    ) -> None:
        """`read` begins anew: contiguous pieces (rows, `columns`) of a matrix as the step reads it, in `dtype`.

        `shape` is the parameter's, which may be that matrix transposed, or many matrices.
        """
        self.shape = shape
        self.dtype = dtype
        self.columns = columns
        self._read = read
        self._pieces: Iterator[NDArray[Any]] = iter(())
        self._next = -1  # the row with which `_left`, or the next piece, begins; -1 before the first read
        self._left: NDArray[Any] = np.empty((0, columns), dtype)

    def rows(self, first: int, last: int) -> Iterator[NDArray[Any]]:
        """Rows `first` to `last` - 1, in pieces; the next may overwrite a piece.

        Raises ValueError where there are not as many, and what reading raises.
        """
        if self._next < 0 or first < self._next:
            self._pieces, self._next, self._left = self._read(), 0, self._left[:0]
        while self._next < last:
            if not len(self._left):
                self._left = next(self._pieces, self._left)
                if not len(self._left):
                    raise ValueError(f"a parameter of {self.shape} ends before its row {last}")
            begin = min(max(first - self._next, 0), len(self._left))
            end = min(last - self._next, len(self._left))
            piece, self._left = self._left[begin:end], self._left[end:]
            self._next += end
            if len(piece):
                yield piece
        if self._next == math.prod(self.shape) // self.columns:  # it was read: its buffer is not needed until the next time
            self._pieces, self._next, self._left = iter(()), -1, self._left[:0].copy()
