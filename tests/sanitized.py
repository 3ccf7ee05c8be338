"""A plugin of pytest for `scripts/sanitize.py`: what the native code may read and write ends where its memory does.

The engine takes memory for keys and values by whole pages, and rounds it up; an overrun would stay within. Here it is taken to
the byte, by the allocator that AddressSanitizer watches.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from smolorad.engine.native import build, decoder, kv_cache, library
from smolorad.engine.runtime import buffers

_LINE_BYTES = 64
_libc = ctypes.CDLL(None)
_libc.posix_memalign.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_libc.free.argtypes = (ctypes.c_void_p,)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--native-sources FOLDER`: C that is compiled in the place of our own."""
    parser.addoption("--native-sources", default="")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Puts exact memory in its place, for as long as the process lives."""
    settings.register_profile("sanitized", deadline=None, derandomize=True, max_examples=400)
    settings.load_profile("sanitized")
    buffers.BufferPool.acquire = _acquire  # type: ignore[method-assign]
    buffers.BufferPool.release = lambda self, memory: None  # type: ignore[method-assign]
    library.aligned = _exact
    assert decoder.aligned_fp32.__globals__["aligned"] is _exact
    assert kv_cache.BufferPool is buffers.BufferPool
    if sources := config.getoption("--native-sources"):
        build._FOLDER = Path(sources)


def _acquire(self: buffers.BufferPool, nbytes: int, *, huge_pages: bool) -> Any:
    return _allocated(nbytes) if nbytes else mmap.mmap(-1, 1)


def _exact(nbytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(_allocated(nbytes), np.uint8) if nbytes else np.empty(0, np.uint8)


def _allocated(nbytes: int) -> Any:
    """A buffer of so many bytes and no more, which begins a line of the cache."""
    place = ctypes.c_void_p()
    if _libc.posix_memalign(ctypes.byref(place), _LINE_BYTES, nbytes):
        raise MemoryError(f"no memory for {nbytes} bytes")
    assert place.value is not None
    buffer = (ctypes.c_uint8 * nbytes).from_address(place.value)
    weakref.finalize(buffer, _libc.free, place.value)
    return buffer
