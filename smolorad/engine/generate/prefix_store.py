"""Prefix cache on disk: keys and values of prompts, for the time after a restart, an unloading or a loading.

A sequence is cut into blocks of 128 tokens, of which the last may be shorter, and each block is a file. A file's name has two
sums: one over the adapter and all tokens before the block, its parent, and one over the block's own tokens too, which is the
parent of the next block. So sequences that begin alike share files, and a longer sequence only adds some. Whatever else the
numbers depend on is in the name of the folder and in each file's header, which has the block's tokens, too.

    FOLDER/MODEL/PARENT-TOKENS-OWN.kv

Several processes may use the folder. A file that is not as it was written is removed, and its tokens are computed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.generate.prefix_file import PART, BlockHeader, read_block, read_header, room_for, write_block
from smolorad.engine.native.kv_cache import KvCache
from smolorad.errors import Damaged

log = logging.getLogger("smolorad.engine")

FOLDER = "prefixes"  # of the platform's cache folder
BLOCK = 128  # tokens
SHORTEST = 32  # fewer are computed again
_MOST_COMPARED = 64  # files with the same parent of which some tokens may be shared
_SPARE_BYTES = 2**30  # of the disk, which stay free
_PART_NS = 600 * 10**9  # no process writes one file for ten minutes
_STEP_NS = 1000  # how much later a block counts as used than the one that follows it, so that the last goes first


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    size: int
    used_ns: int


class PrefixStore:
    """The files of one model, in a folder that all models share."""

    def __init__(self, folder: Path, limit_bytes: int, model: str) -> None:
        """`limit_bytes`: of the files of all models. `model`: a sum over what the numbers depend on, in hexadecimal.

        Raises OSError where the folder cannot be made for its owner alone.
        """
        self._folder = folder
        self._limit = limit_bytes
        self._model = model
        self._files = folder / model[:32]
        self._used = 0  # bytes, by the last count and what was written since
        self._failed = ""  # the last reason why nothing could be written
        self._make_folders()

    def extend(self, chain: str, ids: Sequence[int], cache: KvCache) -> None:
        """Adds to a cache the tokens of `ids` that follow those it has and are stored, but never the last of `ids`.

        `chain` stands for the adapter.
        """
        if len(ids) <= SHORTEST:
            return
        wanted, parent, begin = tuple(ids[:-1]), chain, 0
        room = np.empty(0, np.uint8)
        while len(block := wanted[begin : begin + BLOCK]) == BLOCK:
            header = self._header(parent, block, cache)
            if room.size < room_for(header):
                room = np.empty(room_for(header), np.uint8)
            end = begin + BLOCK
            if cache.length < end and not self._read(header, BLOCK, cache, begin, room):
                break
            parent, begin = _digest(parent, block), end
        if begin <= cache.length < len(wanted):
            self._read_some(parent, block, cache, begin)

    def write(self, chain: str, ids: Sequence[int], cache: KvCache, wait: Callable[[], Any]) -> None:
        """Writes what is not there yet of a cache, which does not change meanwhile. Calls `wait` before each block."""
        now, parent, room = time.time_ns(), chain, self._limit
        self._used = self.nbytes
        try:
            self._make_folders()
            for number, begin in enumerate(range(0, len(ids), BLOCK)):
                block = tuple(ids[begin : begin + BLOCK])
                header = self._header(parent, block, cache)
                room -= room_for(header)
                if len(block) < SHORTEST or room < 0:
                    break
                wait()
                rows = cache.array[..., begin : begin + len(block), :]
                if not self._touch(header, now - number * _STEP_NS):
                    self._write(header, rows, now - number * _STEP_NS)
                parent = _digest(parent, block)
        except (OSError, MemoryError) as error:
            self._report(f"{self._files} cannot be written: {getattr(error, 'strerror', None) or error}")
        log.info("prefix cache: %.1f of %.1f MB on disk", self._used / 1e6, self._limit / 1e6)

    @property
    def nbytes(self) -> int:
        """Bytes of the files of all models."""
        return sum(file.size for file in self._all())

    # Reading.

    def _read(self, header: BlockHeader, tokens: int, cache: KvCache, begin: int, room: NDArray[np.uint8]) -> bool:
        """Adds to a cache what it does not have of the first tokens of a file; whether it has them now."""
        path = self._path(header)
        try:
            rows = read_block(path, header, room)
        except FileNotFoundError:
            return False
        except (Damaged, OSError) as error:
            _discard(path, error)
            return False
        known = cache.length - begin
        cache.array[..., begin + known : begin + tokens, :] = rows[..., known:tokens, :]
        cache.advance(tokens - known)
        return True

    def _read_some(self, parent: str, block: Sequence[int], cache: KvCache, begin: int) -> None:
        """Takes the first tokens of the file that shares most of them with a block."""
        known = cache.length - begin
        shared = {header: _shared(block, header.ids) for header in self._children(parent, cache)}
        for header in sorted(shared, key=shared.__getitem__, reverse=True):
            if shared[header] <= known:
                break
            if self._read(header, shared[header], cache, begin, np.empty(room_for(header), np.uint8)):
                break

    def _children(self, parent: str, cache: KvCache) -> Iterator[BlockHeader]:
        """The headers of some files with this parent; what does not belong there is removed."""
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(self._files) if name.startswith(f"{parent}-")]
            for name in names[:_MOST_COMPARED]:
                path = self._files / name
                try:
                    header = read_header(path)
                    if header != self._header(parent, header.ids, cache) or self._path(header) != path:
                        raise Damaged(f"{path} has other tokens than its name says.")
                except FileNotFoundError:
                    continue
                except (Damaged, OSError) as error:
                    _discard(path, error)
                    continue
                yield header

    # Writing.

    def _make_folders(self) -> None:
        """They may be gone: another process removes the folders that it has emptied."""
        for path in (self._folder, self._files):
            _make_private(path)

    def _touch(self, header: BlockHeader, used_ns: int) -> bool:
        """Notes that a block is used, if it is there, or is the beginning of one that is."""
        longer = [self._path(header)]
        if len(header.ids) < BLOCK:
            begun = f"{header.parent}-"
            longer += [self._path(one) for one in self._headers(begun) if one.ids[: len(header.ids)] == header.ids]
        for path in longer:
            with contextlib.suppress(OSError):
                os.utime(path, ns=(used_ns, used_ns))
                return True
        return False

    def _write(self, header: BlockHeader, rows: NDArray[Any], used_ns: int) -> None:
        size = room_for(header)
        if shutil.disk_usage(self._files).free < size + _SPARE_BYTES:
            raise OSError(errno.ENOSPC, "the disk is nearly full")
        self._make_room(size)
        write_block(self._path(header), header, rows, used_ns)
        self._used += size
        for one in self._headers(f"{header.parent}-"):
            if len(one.ids) < len(header.ids) and header.ids[: len(one.ids)] == one.ids:
                self._used -= room_for(one)
                _remove(self._path(one))

    def _headers(self, begun: str) -> Iterator[BlockHeader]:
        """The headers of files whose names begin so, and that can be read."""
        for name in os.listdir(self._files):
            if name.startswith(begun):
                with contextlib.suppress(OSError, Damaged):
                    yield read_header(self._files / name)

    def _make_room(self, size: int) -> None:
        """Removes the files that were not used for longest, until another one fits."""
        if self._used + size <= self._limit:
            return
        files = sorted(self._all(), key=lambda file: file.used_ns)
        self._used = sum(file.size for file in files)
        for file in files:
            if self._used + size <= self._limit:
                break
            _remove(file.path)
            self._used -= file.size
            if file.path.parent != self._files:
                with contextlib.suppress(OSError):  # it has other files
                    file.path.parent.rmdir()

    def _all(self) -> Iterator[_Stored]:
        """The files of all models; those that a process left half written are removed."""
        for path in _entries(self._folder):
            for one in _entries(Path(path)):
                with contextlib.suppress(OSError):  # another process has removed it
                    found = one.stat(follow_symlinks=False)
                    if one.name.startswith(PART) and found.st_mtime_ns < time.time_ns() - _PART_NS:
                        _remove(Path(one))
                    else:
                        yield _Stored(Path(one), found.st_size, found.st_mtime_ns)

    def _report(self, why: str) -> None:
        """Says once why nothing is written."""
        if why != self._failed:
            self._failed = why
            log.warning("prefix cache: %s", why)

    def _header(self, parent: str, ids: Sequence[int], cache: KvCache) -> BlockHeader:
        layers, halves, heads, _, width = cache.array.shape
        return BlockHeader(self._model, parent, tuple(ids), cache.array.dtype.str, (layers, halves, heads, len(ids), width))

    def _path(self, header: BlockHeader) -> Path:
        return self._files / f"{header.parent}-{len(header.ids)}-{_digest(header.parent, header.ids)}.kv"


def chain_of(adapter: str, *, is_long: bool) -> str:
    """The parent of a sequence's first block; `adapter` is a sum over the adapter, empty for the base alone."""
    return hashlib.sha256(f"{adapter} {is_long}".encode()).hexdigest()[:32]


def _digest(parent: str, ids: Sequence[int]) -> str:
    return hashlib.sha256(parent.encode() + np.asarray(ids, np.int64).tobytes()).hexdigest()[:32]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two blocks share."""
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def _make_private(path: Path) -> None:
    """Makes a folder that only its owner may enter; raises OSError for a link, a file and another user's folder."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{path} is no folder of this user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _discard(path: Path, error: Exception) -> None:
    log.warning("prefix cache: a file is removed: %s", error)
    _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
