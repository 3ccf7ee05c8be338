"""Uploaded files: whole or nothing, and never outside their folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolora.v1.datasets_pb2 import UploadFileRequest, UploadHeader
from smolorad.errors import AlreadyExists, InvalidRequest, NotFound
from smolorad.jobs.units import Units
from smolorad.paths import Home
from smolorad.services.uploads import CHUNK_LIMIT_BYTES, Uploads, check_path


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    home = Home(tmp_path / "home")
    home.create()
    return Uploads(home, Units())


async def parts(
    *data: bytes, size: int | None = None, path: str = "a.txt", upload_id: str = ""
) -> AsyncIterator[UploadFileRequest]:
    total = sum(map(len, data)) if size is None else size
    yield UploadFileRequest(header=UploadHeader(upload_id=upload_id, path=path, size_bytes=total))
    for one in data:
        yield UploadFileRequest(data=one)


def everything(uploads: Uploads) -> list[str]:
    root = uploads._home.uploads
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*"))


async def test_files_arrive_under_one_upload(uploads: Uploads) -> None:
    first = await uploads.receive(parts(b"one\n", b"two\n", path="notes/a.txt"))
    again = await uploads.receive(parts(b"three", path="notes/b.txt", upload_id=first.upload_id))
    empty = await uploads.receive(parts(path="empty.txt", upload_id=first.upload_id))
    assert first.upload_id == again.upload_id == empty.upload_id
    assert first.sha256 == hashlib.sha256(b"one\ntwo\n").hexdigest()
    folder = uploads.folder(first.upload_id)
    assert (folder / "notes/a.txt").read_bytes() == b"one\ntwo\n"
    assert (folder / "notes/b.txt").read_bytes() == b"three"
    assert (folder / "empty.txt").read_bytes() == b""


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (lambda: parts(b"abc", size=4), "announced 4 bytes, but 3 came"),
        (lambda: parts(b"abc", size=2), "announced 2 bytes, but more came"),
        (lambda: parts(b"abc", size=-1), "must be at least 0"),
        (lambda: parts(b"x" * (CHUNK_LIMIT_BYTES + 1)), "send at most 1,048,576 a message"),
        (lambda: parts(b"abc", path="../a.txt"), "has an empty part"),
    ],
)
async def test_a_wrong_upload_leaves_nothing(uploads: Uploads, stream: object, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await uploads.receive(stream())  # type: ignore[operator]
    assert everything(uploads) == []


async def test_a_broken_upload_leaves_nothing(uploads: Uploads) -> None:
    async def broken() -> AsyncIterator[UploadFileRequest]:
        async for part in parts(b"abc", size=10):
            yield part
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await uploads.receive(broken())
    assert everything(uploads) == []


async def test_data_without_a_header_is_refused(uploads: Uploads) -> None:
    async def headless() -> AsyncIterator[UploadFileRequest]:
        yield UploadFileRequest(data=b"abc")

    async def nothing() -> AsyncIterator[UploadFileRequest]:
        return
        yield

    for stream in (headless(), nothing()):
        with pytest.raises(InvalidRequest, match="header"):
            await uploads.receive(stream)


async def test_a_file_is_never_replaced(uploads: Uploads) -> None:
    upload_id = (await uploads.receive(parts(b"first"))).upload_id
    with pytest.raises(AlreadyExists, match=r"a\.txt already"):
        await uploads.receive(parts(b"second", upload_id=upload_id))
    with pytest.raises(InvalidRequest, match="goes through a file"):
        await uploads.receive(parts(b"x", path="a.txt/b.txt", upload_id=upload_id))
    assert everything(uploads) == [upload_id, f"{upload_id}/a.txt"]
    assert (uploads.folder(upload_id) / "a.txt").read_bytes() == b"first"


@pytest.mark.parametrize("upload_id", ["", "nosuch", "../jobs", "0123456789abcdef"])
async def test_an_unknown_upload_is_not_found(uploads: Uploads, upload_id: str) -> None:
    with pytest.raises(NotFound):
        uploads.folder(upload_id)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../a",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "..\\a",
        "a\0b",
        "a\nb",
        "x" * 256,
        "y/" * 600 + "z",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"header\.path"):
        check_path(path)


@given(st.text(alphabet=st.sampled_from("ab./\\\0 é\n~-"), max_size=30))
def test_whatever_is_accepted_stays_inside(path: str) -> None:
    try:
        accepted = check_path(path)
    except InvalidRequest:
        return
    inside = os.path.normpath(os.path.join("/upload", accepted))
    assert inside.startswith("/upload/")
    assert inside == f"/upload/{path}"
