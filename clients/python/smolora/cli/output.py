"""What is written where: results to stdout, for a person or as JSON; errors to stderr, or as JSON to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from smolora._errors import Violation


class UsageError(Exception):
    """The arguments do not go together; the message says which to give."""


@dataclass(frozen=True, slots=True)
class Output:
    """Writes for a person, or as JSON."""

    json: bool = False

    def emit(self, **fields: Any) -> None:
        """One JSON object on one line, flushed, so that a reader of a stream has it at once."""
        from smolora._convert import to_json

        print(json.dumps(to_json(fields), ensure_ascii=False), flush=True)

    def text(self, text: str) -> None:
        """A line of the result."""
        print(text)

    def note(self, text: str) -> None:
        """A line beside the result, on stderr; not with JSON."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values below each other; a value that is None or empty is left out."""
        rows = [(name, str(value)) for name, value in pairs if value not in (None, "")]
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            print(f"{name:<{width}}  {value}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table on a terminal, else tab-separated lines with the same head."""
        if not sys.stdout.isatty():
            for row in (head, *rows):
                print("\t".join(str(cell) for cell in row))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(*head, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        Console(markup=False, highlight=False).print(table)

    def error(self, reason: str, message: str, violations: Sequence[Violation] = ()) -> None:
        """What went wrong: a line on stderr with each violation below it, or one JSON object on stdout."""
        if self.json:
            self.emit(error={"reason": reason, "message": message, "violations": violations})
            return
        print(f"error: {message}", file=sys.stderr)
        for one in violations:
            if one.description not in message:
                print(f"  {one.field}: {one.description}", file=sys.stderr)


def safe(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def size(count: float) -> str:
    """Bytes in the nearest unit: `269 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    raise AssertionError


def span(seconds: float) -> str:
    """Seconds as `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(count: float) -> str:
    """A whole number with separators: `31,102`."""
    return f"{count:,.0f}"


def plural(count: int, noun: str) -> str:
    """`1 file`, `1,200 files`."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def when(time: Any) -> str:
    """A time on the user's clock; empty for None."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
