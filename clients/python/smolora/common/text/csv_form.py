"""How the values of a CSV file are quoted: as in RFC 4180, or in a way that some programs write.

Spaces may stand before a quote; quotes within a value may have a backslash before them, `\\"`; in files with tabs quotes may
mean nothing. A file is written in one way, so the whole of it is looked at: no row is read differently for where it stands.
The reading is taken that loses the fewest lines, and of equals the plainest.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, Literal

from smolora.common.text.compressed import Openable, open_binary
from smolora.common.text.lines import Line, read_lines
from smolora.common.text.rows import BadFile

TAB = "\t"
_PIECE_BYTES = 2**18
_BACKSLASH = re.compile(r'\\(["\\]?)')


@dataclass(frozen=True, slots=True)
class Form:
    """One way of quoting."""

    spaced: bool = False  # spaces before a quote are no part of the value
    escaped: bool = False  # `\"` and `\\` stand for a quote and a backslash, while any other backslash stays
    unquoted: bool = False  # quotes are characters as any other

    def reader(self, lines: Iterable[str], delimiter: str) -> Any:
        """Python's own reader of such lines."""
        quoting: Literal[0, 3] = csv.QUOTE_NONE if self.unquoted else csv.QUOTE_MINIMAL
        if not self.escaped:
            return csv.reader(lines, strict=True, delimiter=delimiter, skipinitialspace=self.spaced, quoting=quoting)
        # The reader takes every backslash for an escape; those that are none are doubled for it.
        return csv.reader(
            map(_double_plain_backslashes, lines),
            strict=True,
            delimiter=delimiter,
            skipinitialspace=self.spaced,
            quoting=quoting,
            escapechar="\\",
        )


_PLAIN = Form()


def form_of(path: Openable, file: str, header: Line, delimiter: str) -> Form:
    """How the values are quoted of a file whose lines begin with `header`."""
    hints = _hints(path, file, delimiter)
    others = [Form(spaced=True)] if b'"' in hints and _spaced(delimiter) in hints else []
    if b'\\"' in hints:
        others += [Form(escaped=True), Form(spaced=True, escaped=True)]
    if delimiter == TAB and b'"' in hints and TAB in header.text and _looks_unquoted(_texts(path, file, header)):
        others.append(Form(unquoted=True))
    if not others:
        return _PLAIN

    def lost(form: Form) -> int:
        return _count_lost_lines(form.reader(_texts(path, file, header), delimiter), delimiter)

    least = lost(_PLAIN)
    return min((_PLAIN, *others), key=lambda form: least if form is _PLAIN else lost(form)) if least else _PLAIN


def _spaced(delimiter: str) -> bytes:
    return f'{delimiter} "'.encode()


def _hints(path: Openable, file: str, delimiter: str) -> set[bytes]:
    """Which of the marks there are that another way of quoting has; files that have none are read once."""
    marks = {b'"', b'\\"', _spaced(delimiter)}
    found: set[bytes] = set()
    before = b""
    with suppress(BadFile), open_binary(path, file) as stream:  # damage is reported by the reader of the rows
        while (piece := stream.read(_PIECE_BYTES)) and marks != found:
            piece = before + piece
            found |= {mark for mark in marks - found if mark in piece}
            before = piece[-max(map(len, marks)) :]
    return found


def _texts(path: Openable, file: str, header: Line) -> Iterator[str]:
    """The lines of a file from its header on, as far as it can be read."""
    with suppress(BadFile), closing(read_lines(path, file)) as lines:
        yield from (line.text for line in dropwhile(lambda line: line.number < header.number, lines))


def _double_plain_backslashes(line: str) -> str:
    """A line in which every backslash is doubled that escapes nothing."""
    return _BACKSLASH.sub(lambda found: found[0] if found[1] else r"\\", line) if "\\" in line else line


def _count_lost_lines(reader: Any, delimiter: str) -> int:
    """How many lines of a file a reading loses: those of records that are none, or have other columns than the header."""
    columns = lost = before = 0
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return lost
        except csv.Error:
            values = None
        lines, before = reader.line_num - before, reader.line_num
        if values is None:
            lost += lines
            continue
        columns = columns or len(values)
        # A quote that opens in one row of a file with tabs and closes in another takes all between as one value.
        swallows = delimiter == TAB and any(TAB in value and "\n" in value for value in values)
        spaced = any(value[:1] == " " and value.strip()[:1] == '"' == value.strip()[-1:] for value in values)
        if (values and len(values) != columns) or swallows or spaced:
            lost += lines


def _looks_unquoted(lines: Iterable[str]) -> bool:
    """Whether these may be lines that quote nothing: few of the values that begin with a quote end with one too."""
    opened = closed = 0
    for line in lines:
        if '"' in line:
            values = [value for value in line.rstrip("\r\n").split(TAB) if value.startswith('"')]
            opened += len(values)
            closed += sum(value.endswith('"', 1) for value in values)
    return 2 * closed <= opened
