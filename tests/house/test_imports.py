"""The import contracts: they are kept, and each is seen to catch what it forbids."""

from __future__ import annotations

import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.house.repository import ROOT, run

# Contract -> a file, and the line that breaks it there.
BREAKS = {
    "downwards only": ("smolorad/domain/bounds.py", "import smolorad.store"),
    "only the engine knows torch": ("smolorad/corpus/__init__.py", "import torch"),
    "engine and corpus know only the link, the words and files": ("smolorad/engine/__init__.py", "import smolorad.store"),
    "nobody imports the engine: it is spawned": ("smolorad/services/__init__.py", "import smolorad.engine"),
    "the engine's packages import downwards": ("smolorad/engine/model/runner.py", "import smolorad.engine.train.fast.loss"),
    "no import goes in a circle": (
        "smolorad/engine/model/runner.py",
        "def lazily() -> None:\n    import smolorad.engine.model.base_model",
    ),
    "serving a native model takes no torch": ("smolorad/engine/text/vocabulary.py", "import transformers"),
    "the client knows nothing of the daemon": ("clients/python/smolora/common/paths.py", "import smolorad.errors"),
    "the daemon shares the client's contract and common readers alone": ("smolorad/jobs/__init__.py", "import smolora._errors"),
}


def lint_imports(root: Path) -> tuple[int, str]:
    done = run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"],
        root,
        PYTHONPATH=f"{root}:{root / 'clients' / 'python'}",
    )
    return done.returncode, done.stdout


def test_the_fence_stands() -> None:
    status, said = lint_imports(ROOT)
    assert status == 0, said


def test_every_contract_has_its_break() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == BREAKS.keys()


def test_every_room_of_the_daemon_has_its_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["name"] == "downwards only")
    listed = {name.strip() for line in layers for name in line.split("|")}
    rooms = {
        f"smolorad.{path.stem}"
        for path in (ROOT / "smolorad").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"smolorad.__init__"} - listed == {"smolorad.engine", "smolorad.corpus"}, (
        "those two are spawned, not imported"
    )


def test_the_daemon_s_contract_lists_every_module_of_the_client() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (forbidden,) = (one["forbidden_modules"] for one in contracts if one["name"].startswith("the daemon shares"))
    modules = {
        f"smolora.{path.stem}"
        for path in (ROOT / "clients/python/smolora").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(forbidden) == modules - {"smolora.__init__", "smolora.common", "smolora.v1"}


def test_the_daemon_does_not_go_through_the_client_s_front_door() -> None:
    """The contract cannot see it: `import smolora` finds every public name lazily, the whole client behind it."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "smolorad").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s*(import smolora\b(?!\.(common|v1)\b)|from smolora import)", line)
    ]
    assert found == []


@pytest.mark.parametrize("contract", BREAKS)
def test_a_forbidden_import_is_caught(contract: str, copy: Path) -> None:
    file, line = BREAKS[contract]
    with (copy / file).open("a") as source:
        source.write(f"\n{line}\n")
    status, said = lint_imports(copy)
    assert status != 0
    assert f"{contract} BROKEN" in " ".join(said.split())


def imports() -> grimp.ImportGraph:
    return grimp.build_graph("smolorad", "smolora", exclude_type_checking_imports=True, cache_dir=None)


def check_circles(graph: grimp.ImportGraph) -> None:
    """Raises CycleError. The contract compares siblings; this also compares a package's own file with what is in it."""
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


def test_no_module_imports_itself_by_way_of_others() -> None:
    check_circles(imports())


def test_a_circle_is_caught() -> None:
    graph = imports()
    graph.add_import(importer="smolorad.engine.device_check.cpu_comparison", imported="smolorad.engine.device_check")
    with pytest.raises(CycleError):
        check_circles(graph)


@pytest.mark.parametrize("module", ["smolorad.daemon", "smolorad.cli", "smolorad.doctor", "smolora"])
def test_the_daemon_s_side_and_the_client_load_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "peft", "trl", "datasets", "pandas", "pyarrow", "numpy")
    code = f"import sys, {module}; sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    done = run([sys.executable, "-c", code])
    assert (done.returncode, done.stdout) == (0, "")
