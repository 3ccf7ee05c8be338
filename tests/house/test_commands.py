"""Commands that the pages name and tests do not run, and every flag in their sentences: the parsers know them."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from smolora.cli.flags import Parser, common
from smolora.cli.main import VERBS, _parser, module_of
from smolorad.cli import _parser as daemon_parser
from tests.house.repository import ROOT
from tests.pages import PAGES, Block, every_block

# Flags of other programs that sentences name.
_OTHERS = {"--quick": "benchmarks"}


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _flags(below)


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of both commands."""
    found = set(_flags(daemon_parser(["serve"])))
    for verb in VERBS:
        parser = Parser(prog=f"smolora-client {verb}")
        common(parser)
        importlib.import_module(module_of(verb)).arguments(parser)
        found |= set(_flags(parser))
    return found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_each_flag_in_a_sentence_exists(page: Path, flags: set[str]) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {flag for code in re.findall(r"`([^`\n]+)`", text) for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert named - flags - _OTHERS.keys() == set()


def test_each_command_in_a_sentence_is_a_verb() -> None:
    commands = {"serve", "install", "uninstall", "doctor", "train-job"}
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for program, verb in re.findall(r"`(smolora-client|smolorad) ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert verb in (VERBS if program == "smolora-client" else commands), f"{page.name}: {program} {verb}"


@pytest.mark.parametrize("block", [b for b in every_block() if b.why], ids=lambda block: f"{block.page.stem}-{block.line}")
def test_what_is_not_run_is_parsed(block: Block) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(block.why) > 10
    for command in block.commands():
        words = shlex.split(command.rstrip("&"))
        if words[0] == "smolora-client":
            _parser().parse_args(words[1:])
        elif words[0] == "smolorad" or "smolorad.cli" in words:
            words = words[words.index("smolorad.cli") if "smolorad.cli" in words else 0 :]
            daemon_parser(words[1:2]).parse_args(words[1:])
        elif words[0] == "make":
            assert words[1] in targets
        else:
            assert words[0] in ("pip", "cd", "node", "export", "accelerate")


def test_most_of_what_is_shown_is_run() -> None:
    shown = [block for block in every_block() if block.commands() or block.language == "python"]
    assert sum(bool(block.why) for block in shown) < len(shown) / 3
    assert sum(len(block.commands()) for block in shown if not block.why) > 40
