"""A real file system that is full, below a real daemon: a training waits, and ends with the weights of an undisturbed one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.faults.test_kill import SETTINGS, weights

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

SAID = "The disk is full; it continues when there is room."
_BYTES = 24 * 2**20


def mounted(home: Path) -> None:
    """A home on a small file system of its own."""
    home.mkdir(mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_BYTES},mode=0700", "tmpfs", home], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this system refuses to mount: {done.stderr}")


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    """A daemon whose home is on a small file system."""
    root = None
    try:
        with daemon_process(mounted, SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu") as running:
            root = running.root
            yield running
    finally:
        if root is not None:
            subprocess.run(["umount", root / "home"], check=True)
            shutil.rmtree(root)


def fill(home: Path) -> Path:
    """Takes all the room there is."""
    path = home / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as f:
        while True:
            f.write(bytes(2**16))
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as f:
        while True:
            f.write(b"\0")
    return path


@pytest.mark.parametrize("at", ["first step", "checkpoint", "last step"])
def test_a_training_on_a_full_disk_waits_and_ends_the_same(
    daemon: DaemonProcess, client: smolora.Client, tmp_path: Path, at: str
) -> None:
    large = tmp_path / "large.txt"
    large.write_text("a row\n" * 2**19)
    undisturbed = weights(client.train("rows", "calm", **SETTINGS).result())
    run = client.train("rows", "full", **SETTINGS)
    filler: Path | None = None
    notes = 0
    for event in run:
        step = getattr(event.body, "step", -1)
        reached = {"first step": step >= 1, "checkpoint": isinstance(event.body, smolora.Checkpoint), "last step": step >= 21}
        if filler is None and reached[at]:
            filler = fill(daemon.home)
        if isinstance(event.body, smolora.Note) and event.body.text == SAID and filler is not None:
            notes += 1
            job = client.job(run.job_id)
            assert job.waiting_for == SAID[0].lower() + SAID[1:-1]
            assert client.generate("In the", max_tokens=2).text() is not None
            with pytest.raises(smolora.NoSpace):
                client.prepare("rows", large).result()
            filler.unlink()
    assert notes
    assert weights(run.result()) == undisturbed
    assert daemon.process is not None
    assert daemon.process.poll() is None
