"""A row with the place it came from, or the problem that stands in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from smolora.common.problems import ProblemKind, RowProblem

_SHOWN_NAMES, _SHOWN_CHARACTERS = 12, 40
_EXCERPT_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: text without space around it, perhaps empty; `line` counts from 1."""

    text: str
    file: str
    line: int


Rows = Iterator[Row | RowProblem]


class Record(NamedTuple):
    """One object with its fields, as a file has it; `line` counts from 1."""

    fields: Mapping[str, Any]
    file: str
    line: int


Records = Iterator[Record | RowProblem]


class BadFile(ValueError):
    """No row of a file can be read; `why` follows the place."""

    def __init__(self, file: str, line: int, why: str) -> None:
        self.file = file
        self.line = line
        self.place = f"{file}:{line}" if line else file
        super().__init__(f"{self.place} {why}.")
        self.why = why


def row(text: str, file: str, line: int) -> Row | RowProblem:
    """A row of the stripped text, or the problem with it."""
    why = fault(text)
    return Row(text.strip(), file, line) if why is None else unreadable(file, line, why, text)


def unreadable(file: str, line: int, why: str, text: str = "") -> RowProblem:
    """The problem of a text whose characters cannot be trusted."""
    return RowProblem(file, line, why, ProblemKind.ENCODING, excerpt(text))


def excerpt(text: str) -> str:
    """The first words of a text, at most 80 characters, fit to be shown."""
    shown = " ".join(text[: 4 * _EXCERPT_CHARACTERS].split())[:_EXCERPT_CHARACTERS]
    return shown.encode(errors="replace").decode() if not shown.isascii() else shown.replace("\0", "")


def fault(text: str) -> str | None:
    """Why a text cannot be trained on; None where it can."""
    if "\0" in text:
        return "holds a NUL character, as damaged files do; remove it"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"holds {ascii(text[error.start])[1:-1]}, one half of a character; write the whole character"
    return None


def quoted(names: list[str]) -> str:
    """Names of fields for a message; a few of them, none too long."""
    shown = [repr(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…") for name in names[:_SHOWN_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
