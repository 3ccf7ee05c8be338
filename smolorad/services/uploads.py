"""Files that clients send: each arrives whole or leaves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from smolora.v1 import datasets_pb2 as pb
from smolorad.errors import AlreadyExists, InvalidRequest, NotFound
from smolorad.jobs.units import Units, unit
from smolorad.paths import Home

CHUNK_LIMIT_BYTES = 2**20
PATH_LIMIT_BYTES = 1024
_PART_LIMIT_BYTES = 255
_ID = re.compile(r"[0-9a-f]{16}")


def check_path(path: str) -> PurePosixPath:
    """The path within an upload, if it is one that stays there on every system; else raises InvalidRequest."""
    parts = path.split("/")
    wrong = ""
    if not path:
        wrong = "is empty"
    elif len(path.encode()) > PATH_LIMIT_BYTES:
        wrong = f"is longer than {PATH_LIMIT_BYTES:,} bytes"
    elif path.startswith("/"):
        wrong = "is absolute"
    elif "\\" in path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        wrong = "has a backslash or a control character"
    elif any(part in ("", ".", "..") for part in parts):
        wrong = "has an empty part, '.' or '..'"
    elif any(len(part.encode()) > _PART_LIMIT_BYTES for part in parts):
        wrong = f"has a part longer than {_PART_LIMIT_BYTES} bytes"
    if wrong:
        raise InvalidRequest.field("header.path", f"{path[:100]!r} {wrong}; send a relative path such as notes/a.txt")
    return PurePosixPath(path)


class Uploads:
    """The folders of uploaded files, by id."""

    def __init__(self, home: Home, units: Units) -> None:
        self._home = home
        self._units = units

    def folder(self, upload_id: str) -> Path:
        """The folder of an upload; raises NotFound."""
        folder = self._home.uploads / upload_id
        if not _ID.fullmatch(upload_id) or not folder.is_dir():
            raise NotFound(f"There is no upload {upload_id[:64]!r}; send the files with UploadFile first.")
        return folder

    async def receive(self, parts: AsyncIterator[pb.UploadFileRequest]) -> pb.UploadFileResponse:
        """Takes one file. Raises InvalidRequest, NotFound, AlreadyExists, OSError."""
        header = await _header(parts)
        path = check_path(header.path)
        if header.upload_id:
            self.folder(header.upload_id)
        incoming = self._home.uploads / f".incoming-{secrets.token_hex(8)}"
        try:
            with incoming.open("xb") as f:
                sha256 = await _write(f, parts, header.size_bytes)
        except BaseException:
            incoming.unlink(missing_ok=True)
            raise
        upload_id = await self._place(incoming, header.upload_id, path, asyncio.current_task())
        return pb.UploadFileResponse(upload_id=upload_id, sha256=sha256)

    @unit
    async def _place(self, incoming: Path, upload_id: str, path: PurePosixPath, caller: asyncio.Task[Any] | None) -> str:
        """Puts a file that has come into its upload, or into a new one; the upload's id."""
        folder = self._home.uploads / (upload_id or secrets.token_hex(8))
        placed = False
        try:
            await asyncio.to_thread(_place, incoming, folder, path)
            placed = caller is None or not caller.cancelling()
        finally:
            if not placed and not upload_id:  # no client knows its id
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return folder.name


async def _header(parts: AsyncIterator[pb.UploadFileRequest]) -> pb.UploadHeader:
    first = await anext(aiter(parts), None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidRequest.field("header", "is missing; the first message of an upload is its header")
    if first.header.size_bytes < 0:
        raise InvalidRequest.field("header.size_bytes", f"is {first.header.size_bytes}, but must be at least 0")
    return first.header


async def _write(f: BinaryIO, parts: AsyncIterator[pb.UploadFileRequest], size: int) -> str:
    digest, written = hashlib.sha256(), 0

    def take(data: bytes) -> None:
        f.write(data)
        digest.update(data)

    async for part in parts:
        if part.WhichOneof("part") != "data":
            raise InvalidRequest.field("data", "is missing; every message after the header carries data")
        if len(part.data) > CHUNK_LIMIT_BYTES:
            raise InvalidRequest.field("data", f"has {len(part.data):,} bytes; send at most {CHUNK_LIMIT_BYTES:,} a message")
        written += len(part.data)
        if written > size:
            break
        await asyncio.to_thread(take, part.data)
    if written != size:
        more = "more" if written > size else f"{written:,}"
        raise InvalidRequest.field("header.size_bytes", f"announced {size:,} bytes, but {more} came; send the file again")
    return digest.hexdigest()


def _place(incoming: Path, folder: Path, path: PurePosixPath) -> None:
    try:
        _rename(incoming, folder, path)
    finally:
        incoming.unlink(missing_ok=True)


def _rename(incoming: Path, folder: Path, path: PurePosixPath) -> None:
    final = folder / path
    try:
        final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InvalidRequest.field(
            "header.path", f"{path} goes through a file of the same upload; rename one of them"
        ) from None
    try:
        final.touch(exist_ok=False)  # takes the name: a rename alone would replace a file
    except FileExistsError:
        raise AlreadyExists(f"The upload has a file {path} already; send each file once.") from None
    try:
        incoming.replace(final)
    except OSError:
        final.unlink()
        raise
