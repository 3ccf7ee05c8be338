"""The pages say what the code says: settings, reasons, dependencies, verbs, links."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import smolorad
from smolora.cli.main import VERBS, _parser, main
from smolorad.config import Settings
from smolorad.domain import ProblemKind, Shape
from smolorad.errors import SmoloraError
from tests.house.repository import ROOT
from tests.releases.release import releases

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def cells(heading: str) -> set[str]:
    """The words in the first column of a section's table, without their backticks."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")][2:]
    return {word.strip(" `") for cell in first for word in cell.split(",")}


def test_the_settings_are_those_of_the_daemon() -> None:
    assert cells("Settings") == {field.name for field in dataclasses.fields(Settings) if "help" in field.metadata}


def test_the_reasons_are_those_of_the_errors() -> None:
    def reasons(kind: type[SmoloraError]) -> set[str]:
        return {kind.reason}.union(*(reasons(sub) for sub in kind.__subclasses__()))

    assert cells("Exit codes and errors") == {word for word in reasons(SmoloraError) if word.isupper()}


def test_each_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["daemon"],
        *project["build-system"]["requires"],
        *project["dependency-groups"]["dev"],
    ]
    assert cells("What it stands on") == {re.split(r"[<>=]", one)[0] for one in wanted}


def test_the_page_on_datasets_has_every_kind_of_problem_and_every_shape() -> None:
    page = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    first = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    told = set(re.findall(r"`(\w+)`", first))
    assert {*ProblemKind, *Shape} <= told
    for line in page.splitlines():
        if line.startswith("$ smolora-client"):
            _parser().parse_args(shlex.split(line)[2:])


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert smolorad.__version__ == version
    assert re.findall(r"^daemon  ([^ ,]+), process", README, re.MULTILINE) == [version]
    coming, is_coming, _ = version.partition(".dev")
    newest = CHANGES.split("\n## ")[1].splitlines()[0]
    assert newest == (f"Unreleased ({coming})" if is_coming else version)


def test_each_release_is_kept() -> None:
    released = [line.removeprefix("## ") for line in CHANGES.splitlines() if re.match(r"## \d", line)]
    assert sorted(released) == sorted(release.version for release in releases())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_commands_of_the_tour_are_understood(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Without a daemon each of them gets as far as to look for one."""
    monkeypatch.chdir(ROOT)
    commands = [shlex.split(line[2:]) for line in README.splitlines() if line.startswith("$ smolora-client")]
    assert {command[1] for command in commands} <= set(VERBS)
    assert len(commands) > 8
    for command in commands:
        assert main(command[1:]) == 69, capsys.readouterr().err
