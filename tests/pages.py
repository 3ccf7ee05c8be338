"""The documentation as tests read it: its pages, and their blocks of commands and code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What a user reads from the front to the back; a page's blocks run in its order.
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of a page: `sh`, `console` or `python`; `why` says why the tests do not run it, empty where they do."""

    page: Path
    line: int
    language: str
    text: str
    why: str

    def commands(self) -> list[str]:
        """What a user types; in `console` the lines that begin with `$`, the others being what came."""
        if self.language == "console":
            return [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]
        lines = (line.partition("  #")[0].strip() for line in self.text.splitlines())
        return [line for line in lines if line] if self.language == "sh" else []


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text[: found.start("language")].count("\n") + 1
        yield Block(page, line, found["language"], found["text"], found["why"] or "")


def every_block() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]
