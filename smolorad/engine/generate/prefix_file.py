"""A file of the prefix cache on disk: the keys and values of some tokens that follow one another.

    | "smolkv1\\n" | bytes of the header | sum | header: JSON, filled up with spaces | rows |
      8 bytes       8                     32                                          as the header's dtype and shape say

The rows of a token are what a KvCache has of it. The file is written beside its place and renamed, so that it is whole or not
there, but it is not flushed: after a power failure its sum shows that it is damaged. It is for this machine alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from smolorad.errors import Damaged

PART = ".part-"  # how the name of a file begins that is being written
_MAGIC = b"smolkv1\n"
_PREAMBLE = struct.Struct("<8sQ32s")
_HEADER_LIMIT = 2**16  # bytes; that of 128 tokens takes about one thousand
_ALIGNED = 64
_LINE_BYTES = 8192
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What a file has. Two files with equal headers have equal rows."""

    model: str  # everything that the numbers depend on but the tokens and the adapter
    parent: str  # the tokens before these, and the adapter
    ids: tuple[int, ...]
    dtype: str
    shape: tuple[int, ...]  # (layers, 2, key-value heads, tokens, width)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def write_block(path: Path, header: BlockHeader, rows: NDArray[Any], used_ns: int) -> None:
    """Writes a file for its owner alone, in place of one that is there. Its time is `used_ns`. Raises OSError."""
    head = _encode(header)
    content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    part = path.with_name(f"{PART}{os.getpid()}-{next(_numbers)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(_PREAMBLE.pack(_MAGIC, len(head), _sum(head, content)) + head)
            file.write(content.data)
        os.utime(part, ns=(used_ns, used_ns))
        part.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def read_header(path: Path) -> BlockHeader:
    """What a file says that it has, without comparing its sum. Raises OSError, and Damaged where it is no such file."""
    with _opened(path) as fd:
        return _header(path, os.pread(fd, _PREAMBLE.size + _HEADER_LIMIT, 0))


def read_block(path: Path, expected: BlockHeader, room: NDArray[np.uint8]) -> NDArray[Any]:
    """The rows of a file, which lie in `room`; it has at least `room_for(expected)` bytes.

    Raises OSError, and Damaged where the file does not have exactly what is expected.
    """
    with _opened(path) as fd:
        size = room_for(expected)
        if os.fstat(fd).st_size != size:
            raise Damaged(f"{path} does not have {size} bytes.")
        done = 0
        while done < size:
            count = os.readv(fd, [room[done:size].data])
            if not count:
                raise Damaged(f"{path} was cut short.")
            done += count
    _, length, found = _PREAMBLE.unpack(room[: _PREAMBLE.size].tobytes())
    begin = _PREAMBLE.size + len(_encode(expected))
    head = room[_PREAMBLE.size : begin].tobytes()
    if _header(path, room[:begin].tobytes()) != expected or length != len(head) or found != _sum(head, room[begin:size]):
        raise Damaged(f"{path} is not as it was written.")
    return room[begin:size].view(expected.dtype).reshape(expected.shape)


def room_for(header: BlockHeader) -> int:
    """Bytes of the file with this header."""
    return _PREAMBLE.size + len(_encode(header)) + header.nbytes


def _encode(header: BlockHeader) -> bytes:
    head = msgspec.json.encode(header)
    return head + b" " * (-(len(head) + _PREAMBLE.size) % _ALIGNED)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Damaged(f"{path} is no file.")
        yield fd
    finally:
        os.close(fd)


def _header(path: Path, content: bytes) -> BlockHeader:
    """The header of a file that begins with `content`."""
    if len(content) < _PREAMBLE.size or not content.startswith(_MAGIC):
        raise Damaged(f"{path} is no file of the prefix cache.")
    _, length, _ = _PREAMBLE.unpack_from(content)
    try:
        return msgspec.json.decode(content[_PREAMBLE.size : _PREAMBLE.size + min(length, _HEADER_LIMIT)], type=BlockHeader)
    except msgspec.MsgspecError as error:
        raise Damaged(f"{path} has no header ({error}).") from error


def _sum(head: bytes, content: NDArray[np.uint8]) -> bytes:
    """SHA-256 over the header, and over the sums of all 64-bit words of each column and of each line of 8 KiB.

    A damaged word changes a column's sum and a line's. SHA-256 over every byte takes 25 times as long.
    """
    lines = content[: content.size // _LINE_BYTES * _LINE_BYTES].view(np.uint64).reshape(-1, _LINE_BYTES // 8)
    digest = hashlib.sha256(head)
    for part in (lines.sum(axis=0), lines.sum(axis=1), content[lines.nbytes :]):
        digest.update(part.tobytes())
    return digest.digest()
