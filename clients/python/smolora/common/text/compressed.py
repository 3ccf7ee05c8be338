"""Files as they are, or behind `.gz` and `.zst`."""

from __future__ import annotations

import gzip
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, BinaryIO, Literal, Protocol, cast

from smolora.common.text.rows import BadFile

GZIP, ZSTD = ".gz", ".zst"
_BUFFER_BYTES = 2**18
# What a read of a damaged gzip file raises, besides the OSError that the disk raises too.
_DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)


class Openable(Protocol):
    """What a reader asks of a file: a `Path`, or one that is watched while it is read."""

    @property
    def suffix(self) -> str:
        """The ending of its name, with its dot."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Its bytes from the beginning."""


def bare_name(name: str) -> str:
    """The name without the ending of its compression: `a.jsonl` of `a.jsonl.gz`."""
    path = PurePath(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in (GZIP, ZSTD) else name


@contextmanager
def open_binary(path: Openable, file: str, line: Callable[[], int] = lambda: 1) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked as they are read; `file` names it in errors, `line` says how far its reader is.

    Raises BadFile for one that is not what its ending says, and where Zstandard cannot be read for want of pyarrow.
    """
    ending = path.suffix.lower()
    if ending not in (GZIP, ZSTD):
        with path.open("rb") as plain:
            yield plain
        return
    with path.open("rb") as packed:
        try:
            with gzip.open(packed) if ending == GZIP else _zstd(packed, file) as stream:
                yield cast(BinaryIO, stream)
        except _DAMAGED as error:
            raise BadFile(file, line(), f"cannot be unpacked ({error}); pack the file again") from error
        except OSError as error:
            if error.errno is not None:  # the disk's; pyarrow's own have no number
                raise
            raise BadFile(
                file, line(), "cannot be unpacked, as it is not Zstandard or is cut off; pack the file again"
            ) from error


def _zstd(packed: BinaryIO, file: str) -> BinaryIO:
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise BadFile(file, 1, "is packed with Zstandard; install pyarrow to read it, or pack it with gzip") from error
    return io.BufferedReader(_Raw(pyarrow.CompressedInputStream(packed, "zstd")), _BUFFER_BYTES)


class _Raw(io.RawIOBase):
    """A pyarrow stream, which has no `readline`, as the raw stream below an `io.BufferedReader`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
