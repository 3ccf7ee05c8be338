"""The light client: a wheel installed with no extra, in an environment with nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.repository import ROOT, run, succeed

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "pandas", "pyarrow", "numpy", "tokenizers", "grpc_tools")


@pytest.fixture(scope="module")
def wheel(package_index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    succeed([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT])
    (built,) = folder.glob("smolora-*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel and its base dependencies."""
    env = tmp_path_factory.mktemp("bare")
    succeed([sys.executable, "-m", "venv", env])
    constraints = ROOT / "constraints.txt"
    succeed([env / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", constraints, wheel])
    return env / "bin"


def test_the_wheel_holds_both_packages_and_what_they_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "smolora/__init__.py",
        "smolora/v1/generation_pb2_grpc.py",
        "smolora/py.typed",
        "smolorad/cli.py",
        "smolorad/link/v1/link_pb2.py",
        "smolorad/launchd/io.github.smolorad.plist.template",
        "smolorad/launchd/smolorad.service.template",
        "smolorad/constraints.txt",
    ):
        assert wanted in names
    native = ROOT / "smolorad" / "engine" / "native"
    assert {f"smolorad/engine/native/{path.name}" for path in native.glob("*.[ch]")} <= names
    assert not [name for name in names if "fake" in name], "stand-ins for tests stay out of it"
    outside = {name.partition("/")[0] for name in names}
    assert all(top in ("smolora", "smolorad") or top.endswith(".dist-info") for top in outside)


def test_nothing_heavy_is_installed_or_imported(bare: Path) -> None:
    installed = succeed([bare / "python", "-m", "pip", "list", "--format=freeze"]).lower()
    assert not [name for name in HEAVY if f"\n{name}==" in f"\n{installed}"]
    code = f"import sys, smolora; smolora.Client; sys.exit(' '.join(name for name in {HEAVY!r} if name in sys.modules) or 0)"
    succeed([bare / "python", "-W", "error", "-c", code], cwd=bare)


def test_the_client_s_command_works(bare: Path) -> None:
    assert "generate" in succeed([bare / "smolora-client", "--help"], cwd=bare)
    done = run([bare / "smolora-client", "status"], cwd=bare)
    assert done.returncode == 69, done.stdout
    assert "smolorad serve" in done.stdout


def test_the_daemon_s_command_says_what_to_install(bare: Path) -> None:
    done = run([bare / "smolorad", "serve"], cwd=bare)
    assert done.returncode == 1
    assert done.stdout.startswith("smolorad needs the daemon extra: pip install 'smolora[daemon]'")
    assert succeed([bare / "smolorad", "--version"], cwd=bare).startswith("smolorad ")
