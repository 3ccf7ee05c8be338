"""One thread, and caches of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from smolora.common.paths import cache_path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory, compiled: Path | None) -> Path:
    """What XDG_CACHE_HOME names in these tests: a cache of theirs with a copy of the compiled library."""
    folder = tmp_path_factory.mktemp("damage-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        if compiled is not None:
            shutil.copytree(compiled, cache_path() / "native" / compiled.name)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """Where a damaged copy lies."""
    return tmp_path / "copy"
