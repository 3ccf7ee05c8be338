"""A world of the tests' own: no setting of the user's is read and no file of theirs is written.

The one thing taken from outside is the starter model in the user's cache: it is a download and a conversion of half a minute.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Sockets stand below it, and their paths may have 103 bytes: pytest's own folders, and $TMPDIR on macOS, are too long.
_ROOT = Path(tempfile.mkdtemp(prefix="smolora-", dir="/tmp"))
_THREADS = str(min(2, os.cpu_count() or 1))


# The same examples each time, however slow the machine is.
settings.register_profile("smolora", deadline=None, derandomize=True)
settings.load_profile("smolora")


def pytest_configure() -> None:
    """Sets the environment before any library reads it; child processes inherit it."""
    for name in [name for name in os.environ if name.startswith("SMOLORA_") and name != "SMOLORA_PROTO_ENV"]:
        del os.environ[name]
    os.environ |= {
        "SMOLORA_HOME": str(_ROOT / "home"),
        "XDG_CONFIG_HOME": str(_ROOT / "config"),
        "HF_HOME": str(_ROOT / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": _THREADS,
        "MKL_NUM_THREADS": _THREADS,
        "GOMP_SPINCOUNT": "2000",
        "TOKENIZERS_PARALLELISM": "false",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    for name in ("XDG_RUNTIME_DIR", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes minutes, unless `-m` names it."""
    if "long" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long") is not None]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)


def pytest_unconfigure() -> None:
    """Removes what the tests left."""
    shutil.rmtree(_ROOT, ignore_errors=True)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose path leaves room for a socket's."""
    folder = Path(tempfile.mkdtemp(dir=_ROOT))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own that does not exist yet; SMOLORA_HOME names it."""
    folder = short_path / "home"
    monkeypatch.setenv("SMOLORA_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """The folder of the starter model, SmolLM2-135M-Instruct in bf16; fetched and converted once for this user."""
    from smolora.common.paths import cache_path
    from smolorad.engine.worker.starter import ensure_starter

    return ensure_starter(cache_path())
