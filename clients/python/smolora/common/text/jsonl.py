"""JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from datetime import date, datetime
from typing import Any

from smolora.common.problems import ProblemKind, RowProblem
from smolora.common.text.compressed import Openable
from smolora.common.text.lines import Block, read_blocks
from smolora.common.text.rows import Record, Records, Row, Rows, excerpt, quoted, row

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"} | {
    # In tables alone.
    bytes: "bytes",
    datetime: "a time",
    date: "a date",
}


class _RepeatedField(ValueError):
    """An object names a field twice, and only one of the values could be kept."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _RepeatedField(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_jsonl(path: Openable, file: str, text_field: str = "text") -> Rows:
    """The stripped values of one field; empty lines are no rows. `file` names the file in rows and problems."""
    for record in read_objects(path, file):
        yield text_of(record, text_field) if isinstance(record, Record) else record


def read_objects(path: Openable, file: str) -> Records:
    """The objects of a file; empty lines are none."""
    with closing(read_blocks(path, file)) as blocks:
        for block in blocks:
            if isinstance(block, Block):
                for number, text in enumerate(block.texts, block.number):
                    if text := text.rstrip():
                        yield _record(text, file, number)
            elif block.why is not None:
                yield block.problem(file)
            elif text := block.text.rstrip():
                yield _record(text, file, block.number)


def _record(line: str, file: str, number: int) -> Record | RowProblem:
    try:
        value = _decoded(line)
    except (ValueError, RecursionError) as error:
        return malformed(error, file, number, line)
    if not isinstance(value, dict):
        why = f'holds {kind_of(value)}, not an object; write one such as {{"text": "..."}}'
        return RowProblem(file, number, why, ProblemKind.MALFORMED, excerpt(line))
    return Record(value, file, number)


def _decoded(line: str) -> Any:
    """As `DECODER.decode`, which looks for space around the value; a line seldom has any."""
    try:
        value, end = DECODER.raw_decode(line)
    except json.JSONDecodeError:
        end = -1
    return value if end == len(line) else DECODER.decode(line)


def malformed(error: Exception, file: str, number: int, text: str) -> RowProblem:
    """The problem of what the decoder refuses."""
    match error:
        case _RepeatedField():
            why = f"has the field {quoted([str(error)])} twice; keep one of them"
        case json.JSONDecodeError() if text.startswith("\ufeff"):
            why = "begins with a byte order mark, as files do that were joined to others; remove it"
        case json.JSONDecodeError():
            what = error.msg.removesuffix(" at")
            why = f"is not JSON: {what} at column {error.colno:,}; write one JSON object a line"
        case RecursionError():
            why = "is nested too deeply to be read; flatten it"
        case _:
            why = "holds a number of too many digits; put it in quotes or shorten it"
    return RowProblem(file, number, why, ProblemKind.MALFORMED, excerpt(text))


def text_of(record: Record, text_field: str) -> Row | RowProblem:
    """The text in one field of a record."""
    fields = record.fields
    if text_field not in fields:
        return RowProblem(record.file, record.line, no_field(fields, text_field))
    text = fields[text_field]
    if not isinstance(text, str):
        why = f"has {kind_of(text)} in {text_field!r}, not text; put it in quotes or remove the row"
        return RowProblem(record.file, record.line, why)
    return row(text, record.file, record.line)


def no_field(fields: Any, field: str, advice: str = "name one as text_field (--text-field)") -> str:
    """Why a record that has other fields cannot be read."""
    there = f"its fields are {quoted(list(fields))}" if fields else "it has no fields"
    return f"has no field {field!r}: {there}; {advice}"


def kind_of(value: Any) -> str:
    """The kind of a value of JSON or of a table, for a sentence."""
    return _KINDS.get(type(value), "a number")
