"""The committed generated code is what the pinned generator makes, and runs on the versions that pyproject allows."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.house.repository import ROOT, run

_PATTERNS = ("clients/python/smolora/v1/*_pb2*", "smolorad/link/v1/*_pb2*")


def code(root: Path) -> dict[str, bytes]:
    """Every generated file by its path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for pattern in _PATTERNS
        for path in sorted(root.glob(pattern))
        if path.suffix in (".py", ".pyi")
    }


def differences(committed: Path, fresh: Path) -> list[str]:
    """What `make proto` would change."""
    here, there = code(committed), code(fresh)
    return (
        [f"{name} is missing" for name in sorted(there.keys() - here.keys())]
        + [f"{name} has no proto any more" for name in sorted(here.keys() - there.keys())]
        + [f"{name} is stale" for name in sorted(here.keys() & there.keys()) if here[name] != there[name]]
    )


def test_the_committed_code_is_fresh(generated: Path) -> None:
    assert code(generated), "the generator wrote nothing"
    assert differences(ROOT, generated) == [], "run `make proto` and commit"


def test_a_missing_an_orphaned_and_a_stale_file_are_seen(generated: Path, tmp_path: Path) -> None:
    shutil.copytree(generated, tmp_path, dirs_exist_ok=True)
    v1 = tmp_path / "clients/python/smolora/v1"
    (v1 / "jobs_pb2.py").unlink()
    (v1 / "gone_pb2.py").write_text("")
    (v1 / "common_pb2.pyi").write_text("")
    assert [line.rpartition("/")[2] for line in differences(tmp_path, generated)] == [
        "jobs_pb2.py is missing",
        "gone_pb2.py has no proto any more",
        "common_pb2.pyi is stale",
    ]


def test_every_generated_file_is_committed() -> None:
    listed = run(["git", "ls-files", *_PATTERNS])
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    assert set(listed.stdout.split()) == code(ROOT).keys()


def test_the_floors_of_the_generated_code_are_those_of_pyproject() -> None:
    said = "\n".join(content.decode() for content in code(ROOT).values())
    protobuf = {".".join(found) for found in re.findall(r"Domain\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+),", said)}
    grpcio = set(re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", said))
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    floors = {name: version for name, version in (re.match(r"([\w-]+)>=([\d.]+)", one).groups() for one in dependencies)}  # type: ignore[union-attr]
    assert protobuf == {floors["protobuf"]}
    assert grpcio == {floors["grpcio"]}
