"""Words that users do not meet, and that no comment has: plain words say who acts."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.repository import ROOT

# Where these words are gone.
CLEAN = (
    "smolorad",
    "clients",
    "proto",
    "docs",
    "benchmarks",
    "examples",
    "scripts",
    "launchd",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
)
# Words, and what to say instead.
WORDS = {
    r"somebody|nobody|whoever": "name who acts: the request, the client, the daemon, the training",
    r"told|tell|tells|telling": "says, reports, shows, names",
    r"(?:is|be|was) had": "is available, is loaded, is fetched",
    r"mend|mends|mended": "correct, repair",
    r"amiss": "wrong",
    r"so many": "the number itself",
    r"comes? to|came to": "is, makes",
    r"(?:go|goes|going|went) on": "continues, resumes",
    r"(?:it|this|that|default|bound|rule|promise|contract) holds(?= *[.,;:]| *$| (?:for|true|here|there|still))": "is valid",
    r"resident(?! memory| set)": "loaded",
}
_WORDS = re.compile("|".join(rf"(?<![\w.-])(?:{words})(?![\w-])" for words in WORDS), re.IGNORECASE)
_COMMENTS = {
    ".proto": r"//[^\n]*",
    ".c": r"//[^\n]*|/\*.*?\*/",
    ".h": r"//[^\n]*|/\*.*?\*/",
    ".sql": r"--[^\n]*",
    ".toml": r"#[^\n]*",
    ".sh": r"#[^\n]*",
    ".mjs": r"//[^\n]*",
    "": r"##?[^\n]*",  # Makefile
}
_CODE = re.compile(r"`[^`\n]+`")


def files() -> Iterator[Path]:
    """Every file below the clean roots that somebody reads."""
    for root in CLEAN:
        below = [ROOT / root] if (ROOT / root).is_file() else sorted((ROOT / root).rglob("*"))
        for path in below:
            if path.is_file() and "_pb2" not in path.name and "data" not in path.parts and "__pycache__" not in path.parts:
                yield path


def _python(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        # A string without a space is a name of the code: a field, a key, a word on the wire.
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            for number, line in enumerate(node.value.splitlines()):
                yield node.lineno + number, line
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that a file says to its readers, by number: prose, comments, docstrings, texts; not its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".md", ".template"):
        if path.name == "CHANGELOG.md":  # what was released stays as it was written
            text = text.split("\n## ")[1]
        yield from enumerate(text.splitlines(), 1)
    elif path.suffix == ".py":
        yield from _python(text)
    elif path.suffix in _COMMENTS:
        for found in re.finditer(_COMMENTS[path.suffix], text, re.DOTALL):
            first = text[: found.start()].count("\n") + 1
            yield from enumerate(found.group().splitlines(), first)


def found_in(path: Path) -> list[str]:
    """Each listed word, with its place."""
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    return [
        f"{name}:{number}: {found.group()!r} in {line.strip()}"
        for number, line in sentences(path)
        for found in _WORDS.finditer(_CODE.sub("``", line))
    ]


def test_no_listed_word_is_said() -> None:
    found = [one for path in files() for one in found_in(path)]
    assert found == [], "\n".join([*found, *(f"{words}: {instead}" for words, instead in WORDS.items())])


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", 'raise ValueError(f"{path} is broken; mend it")\n', 1),
        ("a.py", "# Nobody asks for it.\nx = 1\n", 1),
        ("a.py", '"""What is told.\n\nThe job goes on.\n"""\n', 2),
        ("a.py", 'told = row["resident"]\nhost.tell(told)\n', 0),
        ("a.py", '"""The `resident` field; the daemon\'s resident memory."""\n', 0),
        ("a.proto", "// The resident model.\nbool resident = 1;\n", 1),
        ("a.md", "so many rows; a promise holds.\n", 2),
        ("a.h", "/* one\n   whoever calls */ int told;\n", 1),
    ],
)
def test_the_words_are_found_where_they_are_said(name: str, text: str, found: int, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert len(found_in(path)) == found
