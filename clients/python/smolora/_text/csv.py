"""Comma-separated values: a header, then rows; quoted values may hold commas and line breaks (RFC 4180)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from smolora._models import RowProblem
from smolora._text.lines import MAX_LINE_BYTES, Line, read_lines
from smolora._text.rows import BadFile, Rows, quoted, row

_OTHER_DELIMITERS = ";\t|"


def read_csv(path: Path, file: str, text_field: str = "text") -> Rows:
    """The stripped values of one column; empty lines are no rows. `file` names the file in rows and problems.

    A row is placed at the line where it begins. Raises BadFile where the header is missing, malformed, or has no such column.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    with closing(read_lines(path, file)) as lines:
        yield from _rows(_records(_Lines(lines, file)), file, text_field)


def _rows(records: Iterator[_Record | RowProblem], file: str, text_field: str) -> Rows:
    header = next(records, None)
    if header is None:
        raise BadFile(file, 1, "is missing, as the file is empty; write the names of the columns there")
    if isinstance(header, RowProblem):
        raise BadFile(file, header.line, header.why)
    columns = [name.strip() for name in header.values]
    column = _column(columns, file, header.line, text_field)
    for record in records:
        if isinstance(record, RowProblem):
            yield record
        elif len(record.values) != len(columns):
            yield RowProblem(file, record.line, _wrong_count(len(record.values), len(columns)))
        else:
            yield row(record.values[column], file, record.line)


@dataclass(frozen=True, slots=True)
class _Record:
    values: list[str]
    line: int


def _records(lines: _Lines) -> Iterator[_Record | RowProblem]:
    """Records that are not empty, the header first, each with the line where it begins."""
    reader = csv.reader(lines, strict=True)
    while True:
        begin = reader.line_num + 1
        values, why = [], None
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = _explained(str(error), begin, reader.line_num)
        if (problem := lines.take_problem()) is not None:
            yield problem
        elif why is not None:
            yield RowProblem(lines.file, begin, why)
        elif values:
            yield _Record(values, begin)


class _Lines:
    """Feeds the CSV reader, and keeps the first fault of a line until it is taken.

    The reader gets lines at fault too: a quote in them that closes a value would else be missed, and the next rows with it.
    """

    def __init__(self, lines: Iterator[Line], file: str) -> None:
        self._lines = lines
        self.file = file
        self._problem: RowProblem | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if line.why is not None and self._problem is None:
            self._problem = RowProblem(self.file, line.number, line.why)
        return line.text

    def take_problem(self) -> RowProblem | None:
        problem, self._problem = self._problem, None
        return problem


def _column(columns: list[str], file: str, line: int, text_field: str) -> int:
    found = columns.count(text_field)
    if found > 1:
        raise BadFile(file, line, f"names the column {text_field!r} {found} times; rename all but one")
    if not found:
        hint = "name one as text_field"
        if len(columns) == 1 and any(delimiter in columns[0] for delimiter in _OTHER_DELIMITERS):
            hint = "separate columns by commas"
        raise BadFile(file, line, f"has no column {text_field!r}: its columns are {quoted(columns)}; {hint}")
    return columns.index(text_field)


def _wrong_count(values: int, columns: int) -> str:
    mend = "put values that hold commas in quotes" if values > columns else "add what is missing"
    return f"has {values:,} {'value' if values == 1 else 'values'} where the header names {columns:,}; {mend}"


def _explained(error: str, begin: int, end: int) -> str:
    lost = f", and so takes the lines up to {end:,} with it" if end > begin else ""
    if "unexpected end of data" in error:
        return f"opens a quote that is never closed{lost}; close it"
    if "field larger than" in error:
        return f"holds a value longer than {MAX_LINE_BYTES:,} bytes, or opens a quote that is never closed{lost}; close it"
    if "expected after" in error:
        return "has text behind a closing quote; double the quotes within a value"
    return f"is not CSV: {error}; mend it"
