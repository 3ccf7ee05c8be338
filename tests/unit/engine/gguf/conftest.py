"""A cache of each test's own, and models' folders made in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smolorad.engine.worker.gguf import ensure_folder
from smolorad.engine.worker.progress import no_progress
from smolorad.gguf import gguf_files

MakeFolder = Callable[[Path], Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes the model folder of a path, as the worker does."""
    return lambda path: ensure_folder(gguf_files(path), tmp_path / "cache", no_progress)
