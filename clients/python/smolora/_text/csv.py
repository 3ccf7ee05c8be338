"""Comma-separated values: a header, then rows; quoted values may hold commas and line breaks (RFC 4180).

What separates the columns may be another character; where nobody says which, the header tells. How values are quoted is told by
the first records: spaces before a quote, `\\"` within it, and in files with tabs quotes that mean nothing are known too.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from smolora._models import ProblemKind, RowProblem
from smolora._text.lines import MAX_LINE_BYTES, Line, read_lines
from smolora._text.rows import BadFile, Record, Records, Rows, excerpt, quoted, row

TAB = "\t"
_DELIMITERS = ",;\t|"
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 100, 2**20


def read_csv(path: Path, file: str, text_field: str = "text", delimiter: str = "") -> Rows:
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
    path: Path,
    file: str,
    wanted: Sequence[str] = (),
    delimiter: str = "",
    check: Callable[[Sequence[str]], str | None] = lambda columns: None,
) -> Records:
    """The rows of a file, by the names of the columns.

    `wanted` columns may stand in the header once at most, and help to find the `delimiter` where none is given. `check` tells
    why columns will not do. Raises BadFile as `read_csv` does.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    with closing(read_lines(path, file)) as lines:
        first = next((line for line in lines if line.text.strip("\r\n")), None)
        if first is None:
            raise BadFile(file, 1, "is missing, as the file is empty; write the names of the columns there")
        delimiter = delimiter or _delimiter(first.text, wanted)
        sample, rest = _sample(first, lines)
        form = _form([line.text for line in sample], delimiter)
        records = _records(_Lines(chain(sample, rest), file), delimiter, form, first.number)
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


def _sample(first: Line, lines: Iterator[Line]) -> tuple[list[Line], Iterator[Line]]:
    """The first lines of a file, and what follows them: also the error where the file breaks off there."""
    sample, left = [first], _SAMPLE_CHARACTERS
    try:
        for line in islice(lines, _SAMPLE_LINES):
            sample.append(line)
            if (left := left - len(line.text)) < 0:
                break
    except BadFile as error:
        return sample, map(_raised, [error])
    return sample, lines


def _raised(error: BadFile) -> Line:
    raise error


def _form(sample: list[str], delimiter: str) -> dict[str, Any]:
    """How values are quoted, as `csv.reader` takes it: as in RFC 4180, unless the first rows are sound in another way alone."""
    others: list[dict[str, Any]] = [{"skipinitialspace": True}]
    match _verdict(sample, delimiter, {}):
        case "sound":
            return {}
        case "unsound":
            others += [{"escapechar": "\\"}] if any('\\"' in line for line in sample) else []
            others += [{"quoting": csv.QUOTE_NONE}] if _quotes_mean_nothing(sample, delimiter) else []
    return next((form for form in others if _verdict(sample, delimiter, form) == "sound"), {})


def _verdict(sample: list[str], delimiter: str, form: dict[str, Any]) -> str:
    """`sound`, `spaced` where values keep quotes behind a space, or `unsound`."""
    columns, verdict = 0, "sound"
    try:
        for values in csv.reader(sample, strict=True, delimiter=delimiter, **form):
            columns = columns or len(values)
            if values and len(values) != columns:
                return "unsound"
            # A quote that opens in one row of a TSV file and closes in another takes all between as one value.
            if delimiter == TAB and any(TAB in value and "\n" in value for value in values):
                return "unsound"
            if any(value[:1] == " " and value.strip()[:1] == '"' == value.strip()[-1:] for value in values):
                verdict = "spaced"
    except csv.Error:
        return "unsound"
    return verdict


def _quotes_mean_nothing(sample: list[str], delimiter: str) -> bool:
    """Whether these may be lines of TSV that quotes nothing: few of the values that begin with a quote end with one too."""
    if delimiter != TAB or TAB not in sample[0]:  # any line is a row of one column, also one within a quoted value
        return False
    opened = [value for line in sample for value in line.rstrip("\r\n").split(TAB) if value.startswith('"')]
    return 2 * sum(value.endswith('"', 1) for value in opened) <= len(opened)


@dataclass(frozen=True, slots=True)
class _Record:
    values: list[str]
    line: int


def _records(lines: _Lines, delimiter: str, form: dict[str, Any], first: int) -> Iterator[_Record | RowProblem]:
    """Records that are not empty, the header first, each with the line where it begins; the lines begin with number `first`."""
    reader = csv.reader(lines, strict=True, delimiter=delimiter, **form)
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
    mend = "put values that hold the separator in quotes" if values > columns else "add what is missing"
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
