"""JSON Lines: one object a line, one of its fields holds the text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from smolora._models import RowProblem
from smolora._text.lines import read_lines
from smolora._text.rows import Row, Rows, quoted, row

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}


class _RepeatedField(ValueError):
    """An object names a field twice, and only one of the values could be kept."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _RepeatedField(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_jsonl(path: Path, file: str, text_field: str = "text") -> Rows:
    """The stripped values of one field; empty lines are no rows. `file` names the file in rows and problems."""
    for line in read_lines(path, file):
        if line.why is not None:
            yield RowProblem(file, line.number, line.why)
        elif text := line.text.rstrip():
            yield _row(text, file, line.number, text_field)


def _row(line: str, file: str, number: int, text_field: str) -> Row | RowProblem:
    try:
        value = _DECODER.decode(line)
    except _RepeatedField as error:
        return RowProblem(file, number, f"has the field {quoted([str(error)])} twice; keep one of them")
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at")
        return RowProblem(file, number, f"is not JSON: {what} at column {error.colno:,}; write one JSON object a line")
    except RecursionError:
        return RowProblem(file, number, "is nested too deeply to be read; flatten it")
    except ValueError:
        return RowProblem(file, number, "holds a number of too many digits; put it in quotes or shorten it")
    if not isinstance(value, dict):
        why = f'holds {_kind(value)}, not an object; write one such as {{{json.dumps(text_field)}: "..."}}'
        return RowProblem(file, number, why)
    if text_field not in value:
        fields = f"its fields are {quoted(list(value))}" if value else "it has no fields"
        return RowProblem(file, number, f"has no field {text_field!r}: {fields}; name one as text_field")
    text = value[text_field]
    if not isinstance(text, str):
        return RowProblem(file, number, f"has {_kind(text)} in {text_field!r}, not text; put it in quotes or remove the row")
    return row(text, file, number)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")
