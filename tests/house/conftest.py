"""What the tests of the architecture share: the package index, the generator and its output, a copy to break."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from google.protobuf import descriptor_pb2 as pb

from tests.house.descriptors import compile_protos
from tests.house.repository import ROOT, run, succeed


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips what needs the package index where there is none."""
    wheel = "platformdirs"
    target = tmp_path_factory.mktemp("index")
    asked = run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "-d", target, wheel])
    if asked.returncode != 0:
        pytest.skip(f"no package index: {asked.stdout.strip().splitlines()[-1]}")


@pytest.fixture(scope="session")
def generator(request: pytest.FixtureRequest) -> Path:
    """The interpreter of the pinned generator's own environment; made where it is not there."""
    env = Path(os.environ.get("SMOLORA_PROTO_ENV", ROOT / ".venv-proto"))
    with FileLock(f"{env}.lock"):  # one worker makes it, the others wait
        if not (env / ".ready").exists():
            request.getfixturevalue("package_index")
            succeed([ROOT / "scripts" / "proto.sh", "--env-only"])
    return env / "bin" / "python"


@pytest.fixture(scope="session")
def generated(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code generated anew."""
    folder = tmp_path_factory.mktemp("generated")
    succeed([ROOT / "scripts" / "proto.sh", folder])
    return folder


@pytest.fixture(scope="session")
def protos(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> pb.FileDescriptorSet:
    """The descriptors of both contracts."""
    return compile_protos(generator, ROOT / "proto", tmp_path_factory.mktemp("descriptors") / "set")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of both packages and their contracts, to be broken."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "smolorad", tmp_path / "smolorad", ignore=ignored)
    shutil.copytree(ROOT / "clients", tmp_path / "clients", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path
