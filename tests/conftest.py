"""A world of the tests' own: no setting of the user's is read and no file of theirs is written.

The one thing taken from outside is the starter model in the user's cache: it is a download and a conversion of half a minute.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer

from tests.durations import Measured, Scheduling, longest_first
from tests.examples import PROFILE

# Sockets stand below it, and their paths may have 103 bytes: pytest's own folders, and $TMPDIR on macOS, are too long.
_ROOT = Path(tempfile.mkdtemp(prefix="smolora-", dir="/tmp"))
# Several workers share the machine, and on tiny models threads wait for each other; tests of threads name their number.
_THREADS = "1"


settings.load_profile(PROFILE)  # `--hypothesis-profile` names another


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-durations`."""
    parser.addoption("--write-durations", action="store_true", help="write tests/durations.json anew")


def pytest_configure(config: pytest.Config) -> None:
    """Sets the environment before any library reads it; child processes inherit it."""
    if config.getoption("--write-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Measured())
    gc.disable()  # until everything is imported, as the engine does
    # A training asks some thirty times which packages are there, and each time a file of theirs is parsed.
    for name in ("metadata", "version"):
        setattr(importlib.metadata, name, functools.cache(getattr(importlib.metadata, name)))
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
    # Hundreds of processes and three workers would compile our sources anew: 40% of the time that a small process takes.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    for name in ("XDG_RUNTIME_DIR", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(name, None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Files that share something go to one worker."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes minutes, unless `-m` names it; workers begin with what takes longest."""
    if "long" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("long") is not None]
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
        config.hook.pytest_deselected(items=long)
    if hasattr(config, "workerinput"):
        longest_first(items)


def pytest_collection_finish() -> None:
    """What the imports made stays: to look at it whenever a model is given up took a third of the time of a short training."""
    gc.freeze()
    gc.enable()


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


@pytest.fixture(scope="session")
def compiled() -> Path | None:
    """Where the user's cache keeps the compiled library that decodes, which takes seconds to make; None without a compiler."""
    from smolora.common.paths import cache_path
    from smolorad.engine.native import build

    opened: list[Path] = []
    whole = build.Library

    def library(path: str, threads: int) -> build.Library:
        opened.append(Path(path))
        return whole(path, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "Library", library)
        build.library(cache_path(), 1)
    return opened[0].parent if opened else None


@pytest.fixture
def own_cache(compiled: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own cache, with nothing in it but a copy of the compiled library; XDG_CACHE_HOME names the folder above it."""
    from smolora.common.paths import cache_path

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if compiled is not None:
        shutil.copytree(compiled, cache_path() / "native" / compiled.name)
    return cache_path()
