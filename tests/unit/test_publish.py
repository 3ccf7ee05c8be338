"""Folders that are there whole or not at all, also when the process is killed at any step."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smolorad import publish
from smolorad.errors import AlreadyExists, Damaged


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A folder that is ready to be published."""
    folder = tmp_path / "stage"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("hello")
    (folder / "sub" / "b.bin").write_bytes(bytes(range(256)))
    return folder


def test_a_published_folder_verifies(stage: Path, tmp_path: Path) -> None:
    final = tmp_path / "shelf" / "name" / "1"
    manifest = publish.publish(stage, final, {"name": "x"})
    assert not stage.exists()
    assert publish.verify(final) == publish.read_manifest(final) == manifest
    assert manifest["about"] == {"name": "x"}
    assert set(manifest["files"]) == {"a.txt", "sub/b.bin"}
    assert publish.size_of(final) > 261


def test_what_is_there_is_never_replaced(stage: Path, tmp_path: Path) -> None:
    final = tmp_path / "shelf" / "1"
    final.mkdir(parents=True)
    with pytest.raises(AlreadyExists):
        publish.publish(stage, final, {})
    assert (stage / "a.txt").read_text() == "hello"
    assert list(final.iterdir()) == []


@pytest.mark.parametrize("spoil", ["flip", "cut", "grow", "remove", "no manifest", "no json", "a list"])
def test_every_damage_is_found(stage: Path, tmp_path: Path, spoil: str) -> None:
    final = tmp_path / "shelf" / "1"
    publish.publish(stage, final, {})
    victim, manifest = final / "sub" / "b.bin", final / publish.MANIFEST
    match spoil:
        case "flip":
            data = bytearray(victim.read_bytes())
            data[100] ^= 1
            victim.write_bytes(data)
        case "cut":
            os.truncate(victim, 255)
        case "grow":
            victim.write_bytes(victim.read_bytes() + b"x")
        case "remove":
            victim.unlink()
        case "no manifest":
            manifest.unlink()
        case "no json":
            manifest.write_text("{")
        case "a list":
            manifest.write_text("[]")
    with pytest.raises(Damaged, match="make it again"):
        publish.verify(final)


def test_the_fingerprint_is_of_the_content(stage: Path, tmp_path: Path) -> None:
    before = publish.fingerprint({"files": publish.describe(stage)})
    manifest = publish.publish(stage, tmp_path / "shelf" / "1", {"anything": 1})
    assert publish.fingerprint(manifest) == before
    (tmp_path / "shelf" / "1" / "a.txt").write_text("hellO")
    assert publish.fingerprint({"files": publish.describe(tmp_path / "shelf" / "1")}) != before


KILLED = """
import os, signal, sys
from pathlib import Path
from smolorad import publish

stage, final, name, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
real = getattr(os, name)

def deadly(*args, **kwargs):
    global count
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    count -= 1
    return real(*args, **kwargs)

setattr(os, name, deadly)
publish.publish(stage, final, {"name": "x"})
"""


@pytest.mark.parametrize(
    ("name", "count"), [("fsync", 0), ("fsync", 2), ("fsync", 4), ("rename", 0), ("fsync", 5), ("fsync", 6)]
)
def test_killed_at_any_step_it_is_whole_or_not_there(stage: Path, tmp_path: Path, name: str, count: int) -> None:
    final = tmp_path / "shelf" / "name" / "1"
    done = subprocess.run([sys.executable, "-c", KILLED, stage, final, name, str(count)], check=False)
    assert done.returncode in (-9, 0)
    if final.exists():
        publish.verify(final)
        assert not stage.exists()
    else:
        assert done.returncode == -9
        assert (stage / "a.txt").read_text() == "hello"


def test_a_disk_that_fails_leaves_the_stage(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        publish.publish(stage, tmp_path / "shelf" / "1", {})
    assert not (tmp_path / "shelf" / "1").exists()
    assert (stage / "a.txt").exists()


def test_removing_takes_it_out_of_sight_first(stage: Path, tmp_path: Path) -> None:
    final = tmp_path / "shelf" / "1"
    publish.publish(stage, final, {})
    publish.remove(final)
    assert list(final.parent.iterdir()) == []
    publish.remove(final)  # what is gone is gone
