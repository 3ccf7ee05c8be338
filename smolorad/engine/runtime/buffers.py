"""Large buffers straight from the system, and a pool of released ones."""

from __future__ import annotations

import mmap
from contextlib import suppress

_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux
LIMIT_BYTES = 64 * 2**20
# Sizes are rounded up to an eighth of the power of two below: the next buffer may be a little larger than the last.
_PARTS = 8


def allocate(nbytes: int, *, huge_pages: bool) -> mmap.mmap:
    """`nbytes` zero bytes; the system provides each page when it is first written.

    `huge_pages`: for memory that is written to its end. Pages of 2 MB spare most of the time that pages take: 2.6 ms instead of
    11 for 25 MB.
    """
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages and _HUGE is not None:
        memory.madvise(_HUGE)
    return memory


class BufferPool:
    """Pool of released buffers: the system may take 50 ms to provide 25 MB again."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """`limit_bytes`: of all buffers that it keeps."""
        self._limit = limit_bytes
        self._free: list[mmap.mmap] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that it keeps."""
        return sum(map(len, tuple(self._free)))

    def acquire(self, nbytes: int, *, huge_pages: bool) -> mmap.mmap:
        """A buffer of `nbytes` or a few more, with any content; `huge_pages` as in `allocate`."""
        step = max(1 << max(nbytes.bit_length() - 1, 0), mmap.PAGESIZE) // _PARTS
        wanted = -(-nbytes // step) * step
        # A copy, as the garbage collector may release a buffer between any two lines, and so exceed the limit and drop the
        # very buffer that was just found to fit.
        for memory in tuple(self._free):
            if wanted <= len(memory) <= wanted + 2 * step:
                with suppress(ValueError):
                    self._free.remove(memory)
                    return memory
        return allocate(wanted, huge_pages=huge_pages)

    def release(self, memory: mmap.mmap) -> None:
        """Keeps a buffer that is no longer used; above the limit, the oldest ones go back to the system."""
        self._free.append(memory)
        while self.nbytes > self._limit:
            with suppress(IndexError):  # another release has done it meanwhile
                self._free.pop(0)

    def clear(self) -> None:
        """Gives all buffers back to the system."""
        self._free.clear()
