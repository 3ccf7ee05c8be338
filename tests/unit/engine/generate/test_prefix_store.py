"""Prefixes on disk: never other rows than those that were written, however the files are damaged, and never too many bytes."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolorad.engine.generate import prefix_store
from smolorad.engine.generate.prefix_file import PART
from smolorad.engine.generate.prefix_store import BLOCK, SHORTEST, PrefixStore, chain_of
from smolorad.engine.generate.prefix_writer import PrefixWriter
from smolorad.engine.native.kv_cache import KvCache
from tests.examples import examples
from tests.unit.engine.generate.prefix_kit import BASE, MODEL, ROOM, cache_of, write


def read(store: PrefixStore, ids: Sequence[int], chain: str = BASE, known: int = 0, **cache: Any) -> int:
    """How many tokens are found, whose rows must be theirs; `known` tokens are there already."""
    found = cache_of(ids[:known], capacity=len(ids) + 9, **cache)
    found.array[..., known:, :] = 7
    store.extend(chain, ids, found)
    expected = cache_of(ids, **cache)
    assert (found.array[..., : found.length, :] == expected.array[..., : found.length, :]).all()
    return found.length


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


def kept(tokens: int) -> int:
    """How many tokens of a sequence are written."""
    return tokens if tokens % BLOCK >= SHORTEST else tokens // BLOCK * BLOCK


TEXT = [at * 7 % 90 for at in range(3 * BLOCK)]
_changes = st.tuples(st.integers(0, 3 * BLOCK), st.integers(90, 93), st.integers(1, 3 * BLOCK))


@given(written=st.lists(_changes, min_size=1, max_size=5), asked=_changes, known=st.integers(0, 200))
@settings(max_examples=examples(60))
def test_the_longest_prefix_is_found_with_its_rows(
    written: list[tuple[int, int, int]], asked: tuple[int, int, int], known: int
) -> None:
    def text(place: int, token: int, length: int) -> list[int]:
        return [*TEXT[:place], token, *TEXT[place + 1 :]][:length]

    with tempfile.TemporaryDirectory() as name:
        store = PrefixStore(Path(name, "p"), ROOM, MODEL)
        for one in written:
            write(store, text(*one))
        prompt = text(*asked)
        known = min(known, len(prompt) - 1)
        best = 0
        for one in written:
            other = text(*one)[: kept(one[2])]
            pairs = zip(prompt[:-1], other, strict=False)
            best = max(best, next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(prompt) - 1, len(other))))
        assert read(store, prompt, known=known) == (max(best, known) if len(prompt) > SHORTEST else known)


def test_sequences_that_begin_alike_share_files_and_longer_ones_replace_ends(folder: Path) -> None:
    store = PrefixStore(folder, ROOM, MODEL)
    write(store, TEXT[:200])
    assert len(files(folder)) == 2
    write(store, TEXT[:300])
    assert len(files(folder)) == 3
    before = {path: path.stat().st_ino for path in files(folder)}
    write(store, TEXT[:290])
    assert {path: path.stat().st_ino for path in files(folder)} == before
    write(store, [*TEXT[:256], *range(60)])
    assert len(files(folder)) == 4
    assert read(store, [*TEXT[:299], 1000, 1000]) == 299


@pytest.mark.parametrize("dtype", ["float32", "uint16", "uint8"])
def test_nothing_is_taken_of_another_model_adapter_or_cache(dtype: str, folder: Path) -> None:
    store = PrefixStore(folder, ROOM, MODEL)
    write(store, TEXT, dtype=dtype)
    assert read(store, TEXT, dtype=dtype) == len(TEXT) - 1
    assert read(PrefixStore(folder, ROOM, MODEL), TEXT, dtype=dtype) == len(TEXT) - 1
    assert read(PrefixStore(folder, ROOM, "cd" * 32), TEXT, dtype=dtype) == 0
    for chain in (chain_of("", is_long=True), chain_of("sum", is_long=False)):
        assert read(store, TEXT, chain, dtype=dtype) == 0
    assert len(files(folder)) == 3
    # The folder has half of the sum; the header has all of it.
    assert read(PrefixStore(folder, ROOM, MODEL[:32] + "cd" * 16), TEXT, dtype=dtype) == 0
    assert len(files(folder)) == 2


def test_a_cache_of_another_shape_is_not_filled(folder: Path) -> None:
    store = PrefixStore(folder, ROOM, MODEL)
    write(store, TEXT)
    other = KvCache(2, 4, 500, 6, np.dtype(np.float32))
    store.extend(BASE, TEXT, other)
    assert other.length == 0


def damage(path: Path, how: str, place: int, other: Path) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "flip":
            content[place % len(content)] ^= 1 << place % 8
        case "cut":
            del content[place % len(content) :]
        case "append":
            content += b"x" * (1 + place % 9)
        case "zeros":
            begin = place % len(content)
            content[begin : begin + 4096] = bytes(min(4096, len(content) - begin))
        case "swap":  # two pages, of the rows
            begin = 4096 * (1 + place % 2)
            content[begin : begin + 8192] = content[begin + 4096 : begin + 8192] + content[begin : begin + 4096]
        case "foreign":
            content = bytearray(other.read_bytes())
        case "text":
            content = bytearray(b"smolkv1\n" + b"{" * place)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "prefixes"
    write(PrefixStore(folder, ROOM, MODEL), TEXT[: 2 * BLOCK + 50])
    return folder


@given(
    how=st.sampled_from(["flip", "flip", "cut", "append", "zeros", "swap", "foreign", "text"]),
    place=st.integers(0, 2**20),
    block=st.integers(0, 2),
    tokens=st.integers(2 * BLOCK + 35, 2 * BLOCK + 50),
)
@settings(max_examples=examples(200))
def test_a_damaged_file_is_ignored_and_removed(whole: Path, how: str, place: int, block: int, tokens: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "p")
        shutil.copytree(whole, folder)
        chain, paths = BASE, []
        while found := [path for path in files(folder) if path.name.startswith(chain)]:
            paths += found
            chain = found[0].stem.rsplit("-", 1)[1]
        before = paths[block].read_bytes()
        damage(paths[block], how, place, paths[(block + 1) % 3])
        store = PrefixStore(folder, ROOM, MODEL)
        if paths[block].read_bytes() == before:  # zeros where there were some
            return
        assert read(store, TEXT[:tokens]) == block * BLOCK
        assert not paths[block].exists()
        write(store, TEXT[: 2 * BLOCK + 50])
        assert read(store, TEXT[:tokens]) == tokens - 1


def test_what_is_no_file_of_ours_does_no_harm(folder: Path) -> None:
    store = PrefixStore(folder, ROOM, MODEL)
    write(store, TEXT[:BLOCK])
    (path,) = files(folder)
    target = folder / "elsewhere"
    path.rename(target)
    path.symlink_to(target)
    assert read(store, TEXT) == 0
    assert target.exists()
    assert not os.path.lexists(path)
    os.mkfifo(path)
    assert read(store, TEXT) == 0
    path.mkdir()
    (folder / "file").write_text("none of ours")
    (path.parent / f"{BASE}-nonsense").write_text("none of ours")
    assert read(store, TEXT) == 0
    write(store, TEXT[:200])
    shutil.rmtree(folder)
    assert read(store, TEXT) == 0
    write(store, TEXT)
    assert read(store, TEXT) == len(TEXT) - 1


@given(lengths=st.lists(st.integers(SHORTEST, 300), min_size=3, max_size=9), limit=st.integers(0, 500_000))
@settings(max_examples=examples(40))
def test_never_more_bytes_than_allowed(lengths: list[int], limit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        stores = [PrefixStore(Path(name, "p"), limit, model) for model in (MODEL, "cd" * 32)]
        for number, length in enumerate(lengths):
            store, ids = stores[number % 2], [number, *TEXT[: length - 1]]
            write(store, ids)
            assert store.nbytes == sum(path.stat().st_size for path in files(Path(name, "p"))) <= limit
            if limit > 2**18:  # more than any of them takes
                assert read(store, ids) == min(kept(length), length - 1)


def test_the_least_recently_used_goes_first_and_ends_before_beginnings(folder: Path) -> None:
    first, second, third = ([number, *TEXT[: 2 * BLOCK - 1]] for number in (1, 2, 3))
    store = PrefixStore(folder, ROOM, MODEL)
    write(store, first)
    bytes_of_one = store.nbytes
    store = PrefixStore(folder, 2 * bytes_of_one + bytes_of_one // 2, MODEL)
    write(store, second)
    time.sleep(0.01)
    write(store, first)  # which is used again
    time.sleep(0.01)
    write(store, third)
    assert [read(store, ids) for ids in (first, second, third)] == [255, BLOCK, 255]


def test_only_the_owner_reads_them(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(mode=0o755)
    write(PrefixStore(folder, ROOM, MODEL), TEXT)
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())] == [0o700] * 2
    assert {path.stat().st_mode & 0o777 for path in files(folder)} == {0o600}
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(OSError, match="no folder of this user"):
        PrefixStore(tmp_path / "link", ROOM, MODEL)


def test_a_full_disk_is_reported_once(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    store = PrefixStore(folder, ROOM, MODEL)
    write(store, TEXT[:BLOCK])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 2**30))  # type: ignore[attr-defined]
        write(store, TEXT)
        write(store, TEXT[5:])
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)  # after the content was written
        write(store, TEXT)
        write(store, TEXT)
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 2
    assert len(files(folder)) == 1
    assert read(store, TEXT) == BLOCK
    write(store, TEXT)
    assert read(store, TEXT) == len(TEXT) - 1


_WRITES = """
import sys
from pathlib import Path
from smolorad.engine.generate.prefix_store import PrefixStore
from tests.unit.engine.generate.prefix_kit import MODEL, write
store = PrefixStore(Path(sys.argv[1]), 2**21, MODEL)
print("ready", flush=True)
for number in range(10**6):
    write(store, [number % int(sys.argv[2]), *range(299)])
"""


def test_a_process_that_is_killed_while_it_writes_leaves_whole_files(folder: Path) -> None:
    store = PrefixStore(folder, 2**21, MODEL)
    command = [sys.executable, "-c", _WRITES, str(folder)]
    with (
        subprocess.Popen([*command, "50"], stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen([*command, "70"], stdout=subprocess.PIPE, text=True) as other,
    ):
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for number in range(40):  # beside both
            read(store, [number, *range(299)])
            write(store, [number, *range(280)])
        for process in (one, other):
            process.send_signal(signal.SIGKILL)
    assert sum(read(store, [number, *range(299)]) > 0 for number in range(70)) > 3
    part = folder / MODEL[:32] / f"{PART}1-1"
    part.write_bytes(b"half")
    os.utime(part, (0, 0))
    write(store, TEXT)
    assert not part.exists()


def test_the_writer_waits_until_nothing_else_is_to_be_done(folder: Path) -> None:
    store, writer = PrefixStore(folder, ROOM, MODEL), PrefixWriter()
    first, second = TEXT, TEXT[1:]
    caches = [cache_of(ids) for ids in (first, second)]
    for ids, cache in zip((first, second), caches, strict=True):
        writer.add(store, BASE, ids, cache)
    time.sleep(0.05)
    assert not files(folder)
    del cache, caches  # only the newest is held
    writer.flush(30.0)
    assert read(store, second) == len(second) - 1
    assert read(store, first) == 0
    writer.hold()
    for number in range(100):
        writer.add(store, BASE, [number, *second], cache_of([number, *second]))
    assert len(writer._tasks) == 16
    writer.flush(30.0)
    assert read(store, [99, *second]) == len(second)


def test_between_two_blocks_the_writer_waits_too(folder: Path) -> None:
    store, goes_on, begun = PrefixStore(folder, ROOM, MODEL), threading.Event(), []

    def wait() -> None:
        begun.append(len(files(folder)))
        goes_on.set()

    store.write(BASE, TEXT, cache_of(TEXT), wait)
    assert begun == [0, 1, 2]


def test_an_entry_that_is_larger_than_all_room_has_its_beginning_kept(folder: Path) -> None:
    store = PrefixStore(folder, ROOM, MODEL)
    write(store, TEXT)
    limit = store.nbytes - 1
    shutil.rmtree(folder)
    store = PrefixStore(folder, limit, MODEL)
    for _ in range(2):
        write(store, TEXT)
        assert read(store, TEXT) == 2 * BLOCK


def test_many_files_of_one_parent_take_little_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore(folder, ROOM, MODEL)
    for number in range(70):
        write(store, [number, *TEXT[:40]])
    seen: list[Path] = []
    whole = prefix_store.read_header
    monkeypatch.setattr(prefix_store, "read_header", lambda path: (seen.append(path), whole(path))[1])
    read(store, [99, *TEXT[:40]])
    assert len(seen) == 64
