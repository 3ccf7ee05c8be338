"""A row of text with the place it came from, or the problem that stands in its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smolora._models import RowProblem

_SHOWN_NAMES, _SHOWN_CHARACTERS = 12, 40


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: text without space around it, perhaps empty; `line` counts from 1."""

    text: str
    file: str
    line: int


Rows = Iterator[Row | RowProblem]


class BadFile(ValueError):
    """No row of a file can be read; `why` goes on after the place."""

    def __init__(self, file: str, line: int, why: str) -> None:
        super().__init__(f"{file}:{line} {why}.")
        self.place = f"{file}:{line}"
        self.why = why


def row(text: str, file: str, line: int) -> Row | RowProblem:
    """A row of the stripped text, or the problem with it."""
    why = fault(text)
    return Row(text.strip(), file, line) if why is None else RowProblem(file, line, why)


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
