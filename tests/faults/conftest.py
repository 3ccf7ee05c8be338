"""Daemons to kill: on a tiny model, so that a run takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.tiny import CORPUS, tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 120 rows."""
    path = tmp_path_factory.mktemp("texts") / "rows.txt"
    path.write_text("\n".join(f"{i}: {CORPUS[i % len(CORPUS)]}" for i in range(120)), encoding="utf-8")
    return path


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    """A daemon of the test's own, on the CPU in float32."""
    with daemon_process(SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu") as running:
        yield running


@pytest.fixture
def client(daemon: DaemonProcess, tiny: Path, texts: Path) -> Iterator[smolora.Client]:
    """A client of it; the tiny model is loaded and `rows` is prepared."""
    with smolora.Client(daemon.socket) as connected:
        connected.load(tiny).result()
        connected.prepare("rows", texts).result()
        yield connected
