"""Comma-separated values: a header, then rows; quoted values may hold commas and line breaks (RFC 4180).

What separates the columns may be another character; where none is given, the header says which, or Excel's `sep=;` before it.
How values are quoted is found from the whole file: see `csv_form.py`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from smolora.common.problems import ProblemKind, RowProblem
from smolora.common.text.compressed import Openable
from smolora.common.text.csv_form import Form, form_of
from smolora.common.text.lines import MAX_LINE_BYTES, Line, read_lines
from smolora.common.text.rows import BadFile, Record, Records, Rows, excerpt, quoted, row

_DELIMITERS = ",;\t|"
_EXCEL = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def read_csv(path: Openable, file: str, text_field: str = "text", delimiter: str = "") -> Rows:
    """The stripped values of one column; empty lines are no rows. `file` names the file in rows and problems.

    A row is placed at the line where it begins. Raises BadFile where the header is missing, malformed, or has no such column.
    """

    def check(columns: Sequence[str]) -> str | None:
        if text_field in columns:
            return None
        return f"has no column {text_field!r}: its columns are {quoted(list(columns))}; name one as text_field (--text-field)"

    for record in read_table(path, file, (text_field,), delimiter, check):
        yield row(record.fields[text_field], file, record.line) if isinstance(record, Record) else record


def read_table(
    path: Openable,
    file: str,
    wanted: Sequence[str] = (),
    delimiter: str = "",
    check: Callable[[Sequence[str]], str | None] = lambda columns: None,
) -> Records:
    """The rows of a file, by the names of the columns.

    `wanted` columns may stand in the header once at most, and help to find the `delimiter` where none is given. `check` hears
    why columns will not do. Raises BadFile as `read_csv` does.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    with closing(read_lines(path, file)) as lines:
        written = (line for line in lines if line.text.strip("\r\n"))
        first = next(written, None)
        if first is not None and (said := _EXCEL.fullmatch(first.text)):
            delimiter, first = delimiter or said[1], next(written, None)
        if first is None:
            raise BadFile(file, 1, "is missing, as the file is empty; write the names of the columns there")
        delimiter = delimiter or _delimiter(first.text, wanted)
        form = form_of(path, file, first, delimiter)
        records = _records(_Lines(chain([first], lines), file), delimiter, form, first.number)
        header = next(records)
        if isinstance(header, RowProblem):
            raise BadFile(file, header.line, header.why)
        columns = [name.strip() for name in header.values]
        for name in wanted:
            if (found := columns.count(name)) > 1:
                raise BadFile(file, header.line, f"names the column {name!r} {found} times; rename all but one")
        if (why := check(columns)) is not None:
            raise BadFile(file, header.line, why)
        for record in records:
            if isinstance(record, RowProblem):
                yield record
            elif len(record.values) != len(columns):
                why = _wrong_count(len(record.values), len(columns))
                yield RowProblem(file, record.line, why, ProblemKind.MALFORMED, excerpt(delimiter.join(record.values)))
            else:
                yield Record(dict(zip(columns, record.values, strict=True)), file, record.line)


def _delimiter(header: str, wanted: Sequence[str]) -> str:
    """What parts the header into the most columns, among them those wanted; a comma where nothing does."""

    def rank(delimiter: str) -> tuple[int, int]:
        columns = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        return len(set(wanted).intersection(columns)), len(columns)

    return max(_DELIMITERS, key=rank)


@dataclass(frozen=True, slots=True)
class _Record:
    values: list[str]
    line: int


def _records(lines: _Lines, delimiter: str, form: Form, first: int) -> Iterator[_Record | RowProblem]:
    """Records that are not empty, the header first, each with the line where it begins; the lines begin with number `first`."""
    reader = form.reader(lines, delimiter)
    while True:
        begin = reader.line_num + first
        values, why = [], None
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = _explained(str(error), begin, reader.line_num + first - 1)
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
            self._problem = line.problem(self.file)
        return line.text

    def take_problem(self) -> RowProblem | None:
        problem, self._problem = self._problem, None
        return problem


def _wrong_count(values: int, columns: int) -> str:
    advice = "put values that hold the separator in quotes" if values > columns else "add what is missing"
    return f"has {values:,} {'value' if values == 1 else 'values'} where the header names {columns:,}; {advice}"


def _explained(error: str, begin: int, end: int) -> str:
    lost = f", and so takes the lines up to {end:,} with it" if end > begin else ""
    if "unexpected end of data" in error:
        return f"opens a quote that is never closed{lost}; close it"
    if "field larger than" in error:
        return f"holds a value longer than {MAX_LINE_BYTES:,} bytes, or opens a quote that is never closed{lost}; close it"
    if "expected after" in error:
        return "has text behind a closing quote; double the quotes within a value"
    return f"is not CSV: {error}; correct it"
