"""A file of which no row comes for long still says how far it is read, and ends when it is asked to."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest

from smolora.common.text.compressed import open_binary
from smolorad.corpus import watched_file
from smolorad.corpus.watched_file import WatchedFile
from smolorad.domain import PhaseProgress
from smolorad.errors import Cancelled
from tests.unit.corpus.kit import Recorder

BYTES = 20_000_000


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """Much in little."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a" * BYTES))
    return path


def test_progress_is_told_while_one_long_line_is_unpacked(bomb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 3)
    monkeypatch.setattr(watched_file.time, "monotonic", lambda: next(clock))
    host = Recorder()
    with open_binary(WatchedFile(bomb, host), "a.txt.gz") as stream:
        assert len(stream.read()) == BYTES
    size = bomb.stat().st_size
    told = [event for event in host.events if isinstance(event, PhaseProgress)]
    assert {(event.phase, event.total, event.unit) for event in told} == {("read", size, "bytes")}
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert told[-1].done == size


def test_a_cancel_is_heard_while_one_long_line_is_unpacked(bomb: Path) -> None:
    with pytest.raises(Cancelled), open_binary(WatchedFile(bomb, Recorder(Cancelled("no"), after=1)), "a.txt.gz") as stream:
        stream.read()
