"""The pages say what the code says: settings, reasons, dependencies, verbs, links."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

import smolora._errors
import smolorad
from smolora.cli.main import VERBS
from smolorad.config import Settings
from smolorad.domain import ProblemKind, Shape
from smolorad.errors import SmoloraError
from tests.house.repository import ROOT
from tests.releases.release import releases

LINKED = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
MAX_WORDS = 900


def page(name: str) -> str:
    """A page of docs/."""
    return (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")


def cells(name: str, heading: str) -> set[str]:
    """The words in the first column of a section's table, without their backticks."""
    section = page(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")][2:]
    return {word.strip(" `") for cell in first for word in cell.split(",")}


def test_the_settings_are_those_of_the_daemon() -> None:
    assert cells("settings", "Settings") == {field.name for field in dataclasses.fields(Settings) if "help" in field.metadata}


def test_the_settings_file_that_is_shown_is_read(short_path: Path) -> None:
    (shown,) = re.findall(r"```toml\n(.*?)```", page("settings"), re.DOTALL)
    (short_path / "smolorad.toml").write_text(shown)
    settings = Settings.load((), {"SMOLORA_HOME": str(short_path / "home")}, short_path / "smolorad.toml")
    for name, value in tomllib.loads(shown).items():
        assert getattr(settings, name) == (timedelta(hours=2) if name == "keep_alive" else value)


def test_the_reasons_are_those_of_the_errors() -> None:
    def reasons(kind: type[SmoloraError]) -> set[str]:
        return {kind.reason}.union(*(reasons(sub) for sub in kind.__subclasses__()))

    assert cells("cli", "Errors") == {word for word in reasons(SmoloraError) if word.isupper()}


def test_each_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["daemon"],
        *project["build-system"]["requires"],
        *project["dependency-groups"]["dev"],
    ]
    assert cells("architecture", "Dependencies") == {re.split(r"[<>=]", one)[0] for one in wanted}


def test_the_page_on_datasets_has_every_kind_of_problem_and_every_shape() -> None:
    first = " ".join(line.split("|")[1] for line in page("datasets").splitlines() if line.startswith("| `"))
    assert {*ProblemKind, *Shape} <= set(re.findall(r"`(\w+)`", first))


def test_the_verbs_are_those_of_the_command() -> None:
    section = page("cli").split("\n## Verbs\n")[1].split("\n\n`smolorad` has")[0]
    first = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([a-z-]+)`", first)) == set(VERBS)


def test_the_front_page_is_short_and_leads_to_every_other() -> None:
    assert len(README.split()) <= MAX_WORDS
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        linked = {path.parent / name for path in new for name in re.findall(r"\]\(([\w./-]+\.md)", path.read_text())}
        new = {path.resolve() for path in linked} - reached
    assert set(LINKED) <= reached


def test_the_error_tree_is_that_of_the_client() -> None:
    tree = inspect.getdoc(smolora._errors) or ""
    assert tree[tree.index("SmoloraError ") :].rstrip() in page("architecture")


@pytest.mark.parametrize("name", ["architecture"])
def test_the_files_that_a_page_names_exist(name: str) -> None:
    """Paths are written from the repository, from `smolorad/`, from the engine, or from the client's package."""
    roots = (ROOT, ROOT / "smolorad", ROOT / "smolorad/engine", ROOT / "clients/python", ROOT / "clients/python/smolora")
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|sql|proto|toml|[ch]))`", page(name))
    paths = [path for path in named if not path.startswith("HOME") and "." not in path.split("/")[0]]
    assert len(paths) > 40
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert smolorad.__version__ == version
    assert re.findall(r"^daemon  ([^ ,]+), process", page("cli"), re.MULTILINE) == [version]
    coming, is_coming, _ = version.partition(".dev")
    newest = CHANGES.split("\n## ")[1].splitlines()[0]
    assert newest == (f"Unreleased ({coming})" if is_coming else version)


def test_each_release_is_kept() -> None:
    released = [line.removeprefix("## ") for line in CHANGES.splitlines() if re.match(r"## \d", line)]
    assert sorted(released) == sorted(release.version for release in releases())


def anchors(path: Path) -> set[str]:
    """What a link may name after `#`: the page's headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{path.name}: {target}"
