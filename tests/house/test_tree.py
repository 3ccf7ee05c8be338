"""Habits of the whole tree: settings are read in one place, nothing points at one machine, modules stay small."""

from __future__ import annotations

import ast
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import sanitize
from tests.house.repository import ROOT, run

MAX_LINES, MAX_FUNCTION_LINES = 350, 60  # CONTRIBUTING.md names both
# The library's way in: SMOLORA_HOME and SMOLORA_SOCKET are read where a client is made.
_ENTRIES = {f"clients/python/smolora/{name}.py" for name in ("_channel", "_spawn_daemon", "cli/main")}
_ENTRIES.add("smolorad/engine/worker/commands.py")  # a worker's first lines, whichever way it is started


def sources(*roots: str) -> Iterator[Path]:
    """Every module that was not generated from proto/, C included."""
    for root in roots:
        for path in sorted((ROOT / root).rglob("*")):
            if path.suffix in (".py", ".c", ".h") and not path.stem.endswith(("_pb2", "_pb2_grpc")):
                yield path


def test_the_environment_is_read_where_a_process_begins() -> None:
    found = []
    for path in sources("smolorad", "clients/python/smolora"):
        if path.suffix != ".py":
            continue
        name = str(path.relative_to(ROOT))
        source = path.read_text()
        if name in _ENTRIES or path.name == "__main__.py" or '__name__ == "__main__"' in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and ast.unparse(node.value) == "os":
                found.append(f"{name}:{node.lineno}")
    assert found == []


def test_nothing_points_at_one_machine_or_apologises() -> None:
    listed = run(["git", "ls-files"])
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    # In pieces, so that this file does not find itself.
    pieces = ("/wo|rk/", "/tmp/pr|obe", "/ro|ot/", "TO|DO", "FIX|ME", "XX|X", "pypi.|org", "pythonhosted.|org", "npmjs.|org")
    words = [word.replace("|", "") for word in pieces]
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" if word.isalpha() else re.escape(word) for word in words))
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in listed.stdout.splitlines()
        if (path := ROOT / name).is_file() and not name.startswith("examples/data/")
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a Python module, and how many lines it has."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                yield node.name, node.end_lineno - node.lineno + 1


def test_modules_and_functions_stay_small(capsys: pytest.CaptureFixture[str]) -> None:
    sizes, long = [], set()
    for path in sources("smolorad", "clients", "benchmarks", "examples", "scripts"):
        name = str(path.relative_to(ROOT))
        sizes.append((len(path.read_text().splitlines()), name))
        long |= {f"{name}:{function}" for function, lines in functions(path) if lines > MAX_FUNCTION_LINES}
    print("\n".join(f"{lines:5} {name}" for lines, name in sorted(sizes, reverse=True)[:10]))
    long |= {name for lines, name in sizes if lines > MAX_LINES}
    assert long == set()


def test_the_limits_are_those_that_contributors_read() -> None:
    said = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"at most {MAX_LINES} lines, C included; a function has at most {MAX_FUNCTION_LINES}" in said


def test_what_is_shipped_and_measured_imports_no_test() -> None:
    found = []
    for path in (path for path in sources("smolorad", "clients", "benchmarks") if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [f"{path.relative_to(ROOT)}:{name}" for name in names if name.partition(".")[0] == "tests"]
    assert found == []


def test_what_make_sanitize_names_is_there() -> None:
    tests = {*sanitize.TESTS, *(planted.test for planted in sanitize.PLANTED)}
    for path, _, test in (name.partition("::") for name in tests):
        assert (ROOT / path).exists(), path
        assert not test or f"def {test.partition('[')[0]}(" in (ROOT / path).read_text()
    for planted in sanitize.PLANTED:
        assert (sanitize.NATIVE / planted.file).read_text().count(planted.right) == 1


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="the emulation is of x86's instructions")
def test_the_code_for_avx512_compiles_without_avx512() -> None:
    """Where it does not, `make sanitize` skips most of what it is to test there."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    command = [compiler, "-fsyntax-only", "-march=haswell", *sanitize.EMULATION.split()]
    for source in ("decode.c", "train.c"):
        checked = subprocess.run([*command, sanitize.NATIVE / source], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr[-2000:]
