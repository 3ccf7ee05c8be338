"""Memory that is taken from the system at once, and goes back to it at once."""

from __future__ import annotations

import mmap

_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux


def take(nbytes: int, *, whole: bool) -> mmap.mmap:
    """So many bytes, zero, each page of them when it is first written.

    `whole`: all of them will be. Pages of 2 MB then spare most of the time that pages take: 2.6 ms instead of 11 for 25 MB.
    """
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if whole and _HUGE is not None:
        memory.madvise(_HUGE)
    return memory
