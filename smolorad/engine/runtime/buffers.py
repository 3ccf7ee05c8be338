"""Memory that is taken from the system at once, and goes back to it at once."""

from __future__ import annotations

import mmap
from contextlib import suppress

_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux
LIMIT_BYTES = 64 * 2**20
# Sizes are rounded up to an eighth of the power of two below: the next one may want a little more than the last.
_PARTS = 8


def allocate(nbytes: int, *, huge_pages: bool) -> mmap.mmap:
    """So many bytes, zero, each page of them when it is first written.

    `huge_pages`: for memory that is written to its end. Pages of 2 MB spare most of the time that pages take: 2.6 ms instead of
    11 for 25 MB.
    """
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge_pages and _HUGE is not None:
        memory.madvise(_HUGE)
    return memory


class BufferPool:
    """Memory that nobody uses any more, for whoever is next: the system may take 50 ms to give 25 MB of it anew."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """It keeps at most so many bytes."""
        self._limit = limit_bytes
        self._free: list[mmap.mmap] = []

    @property
    def nbytes(self) -> int:
        """Bytes that nobody uses now."""
        return sum(map(len, tuple(self._free)))

    def acquire(self, nbytes: int, *, huge_pages: bool) -> mmap.mmap:
        """So many bytes or a few more, their content anything; `huge_pages` as in `allocate`."""
        step = max(1 << max(nbytes.bit_length() - 1, 0), mmap.PAGESIZE) // _PARTS
        wanted = -(-nbytes // step) * step
        # A copy, for the collector may give something back at any time, between any two lines: so may whoever gives it back
        # find too much here, and let go of what was just found to fit.
        for memory in tuple(self._free):
            if wanted <= len(memory) <= wanted + 2 * step:
                with suppress(ValueError):
                    self._free.remove(memory)
                    return memory
        return allocate(wanted, huge_pages=huge_pages)

    def release(self, memory: mmap.mmap) -> None:
        """Nobody looks at this memory any more; where there is too much, the oldest goes back to the system."""
        self._free.append(memory)
        while self.nbytes > self._limit:
            with suppress(IndexError):  # another one that was given back meanwhile has seen to it
                self._free.pop(0)

    def clear(self) -> None:
        """Everything goes back to the system."""
        self._free.clear()
