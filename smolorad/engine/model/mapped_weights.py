"""Weights in memory, or in a nameless file of the engine's that is mapped into memory.

The file is for exact weights that generation does not read, as it has a packed copy: the system gets their memory back until a
training reads them again. Mapping the model's own file would not do: cutting it short would end the engine, and writing to it
would change the model.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from smolorad.engine.runtime.buffers import allocate

log = logging.getLogger(__name__)

ALIGNMENT = 64  # bytes: a vector of this length then lies in one cache line

Tensor = Iterable[Any]  # its bytes, in pieces


class ExactWeights(Protocol):
    """Exact weights that generation does not read."""

    @property
    def memory_nbytes(self) -> int:
        """Bytes of them that stay in memory."""

    def release_idle_memory(self) -> None:
        """Gives back the memory of those that lie in files; the next read brings the pages in again."""


class MappedWeights:
    """A file without a name, mapped into memory."""

    memory_nbytes = 0

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped

    def release_idle_memory(self) -> None:
        """Gives its memory back; the next read brings the pages in again."""
        self._mapped.madvise(mmap.MADV_DONTNEED)


def write_to_file(tensors: Iterable[Tensor], folder: Path) -> tuple[mmap.mmap, Sequence[int]] | None:
    """Writes tensors into a file without a name below `folder`: the mapped memory, and the offset of each tensor.

    None where the disk has no room for it, and the log says so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            places = _write(file, tensors)
            file.flush()
            return mmap.mmap(file.fileno(), 0), places
    except OSError as error:
        log.warning("the exact weights stay in memory, as they cannot be written to %s: %s", folder, error)
        return None


def write_to_memory(tensors: Iterable[Tensor], nbytes: int) -> tuple[mmap.mmap, Sequence[int]]:
    """Writes tensors of together `nbytes`, ALIGNMENT for each included, into memory; returns as `write_to_file`."""
    memory = allocate(nbytes, huge_pages=True)
    return memory, _write(memory, tensors)


def _write(sink: IO[bytes] | mmap.mmap, tensors: Iterable[Tensor]) -> list[int]:
    places = []
    for tensor in tensors:
        sink.seek(-sink.tell() % ALIGNMENT, os.SEEK_CUR)
        places.append(sink.tell())
        for piece in tensor:
            sink.write(piece)
    return places
