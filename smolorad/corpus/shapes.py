"""From records to rows of one shape."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from smolora._models import ProblemKind as ClientKind
from smolora._models import RowProblem
from smolora._text.jsonl import no_field
from smolora._text.lines import MAX_LINE_BYTES
from smolora._text.rows import Record, Row, excerpt, fault
from smolorad.chat.turns import Value
from smolorad.corpus.values import CONVERSATIONS, MAKERS, Unfit
from smolorad.domain import Shape

COLUMNS: Mapping[Shape, tuple[str, ...]] = {
    Shape.TEXT: ("text",),
    Shape.PROMPT_COMPLETION: ("prompt", "completion"),
    Shape.CHAT: ("messages",),
    Shape.PREFERENCE: ("prompt", "chosen", "rejected"),
}
_OPTIONAL = ("input", "system")  # a row may lack them, whatever they are called


class Sample(NamedTuple):
    """A row: its values in the order of the shape's columns, and where it came from."""

    shape: Shape
    values: tuple[Value, ...]
    file: str
    line: int

    def key(self) -> str:
        """The same for equal rows alone."""
        return key_of(self.values)

    def text(self) -> str:
        """All that is said in it."""
        return " ".join(texts_of(self.values))

    def characters(self) -> int:
        """How long it is."""
        first = self.values[0]
        return len(first) if len(self.values) == 1 and isinstance(first, str) else sum(map(len, texts_of(self.values)))

    def excerpt(self) -> str:
        """Its first words."""
        return excerpt(texts_of(self.values)[0])


def key_of(values: tuple[Value, ...]) -> str:
    """The same for equal values alone, where they are of one shape."""
    first = values[0]
    return first if len(values) == 1 and isinstance(first, str) else json.dumps(values)


def texts_of(values: tuple[Value, ...]) -> list[str]:
    """Every text in a row's values."""
    return [text for value in values for text in ([value] if isinstance(value, str) else [turn.content for turn in value])]


class Shaper:
    """Makes rows of records; all of the shape asked for, or else of the shape of the first."""

    def __init__(self, shape: Shape | None, text_field: str, columns: Mapping[str, str]) -> None:
        self.shape = shape
        self._wanted = shape
        self._names = {"text": text_field} | dict(columns)
        self._text_field = self._names["text"]
        self._first = ""
        self._form: tuple[type, ...] = ()

    def wanted(self) -> tuple[str, ...]:
        """Names of the fields that a row of text or of a column map needs."""
        return tuple(self._names.values())

    def unfit_columns(self, columns: Sequence[str]) -> str | None:
        """Why a table with these columns holds no rows; None where it does."""
        why = self._lost(columns)
        if why is None and _shape_of(self._renamed(dict.fromkeys(columns, "")), self.shape) is None:
            why = no_field(columns, self._text_field)
        return why and why.replace("field", "column", 1).replace("its fields", "its columns")

    def text(self, row: Row) -> Sample | RowProblem:
        """The row of a plain text."""
        if self.shape is Shape.TEXT:
            return Sample(Shape.TEXT, (row.text,), row.file, row.line)
        return self.shaped(Record({self._text_field: row.text}, row.file, row.line))

    def shaped(self, record: Record) -> Sample | RowProblem:
        """The row, or the problem with it."""
        fields = record.fields
        # Text is by far the most frequent, and may be longest.
        text = fields.get(self._text_field) if self._form and self.shape is Shape.TEXT else None
        if isinstance(text, str) and len(text) <= MAX_LINE_BYTES and fault(text) is None:
            return Sample(Shape.TEXT, (text.strip(),), record.file, record.line)
        try:
            return self._convert(record)
        except Unfit as unfit:
            return RowProblem(record.file, record.line, str(unfit), unfit.kind, excerpt(unfit.text))

    def _convert(self, record: Record) -> Sample:
        if (lost := self._lost(record.fields)) is not None:
            raise Unfit(lost, text=str(record.fields))
        fields = self._renamed(record.fields)
        shape = _shape_of(fields, self.shape)
        if shape is None:
            other = _shape_of(fields, None) if self.shape else None
            if other is None or self._wanted:
                raise Unfit(self._missing(record.fields), text=str(record.fields))
            raise Unfit(
                f"is a row of {_spoken(other)}, while those before it are of {_spoken(self.shape)} ({self._first}); "
                "keep one shape in a dataset, or choose it with --shape and drop the others",
                ClientKind.MIXED_SHAPES,
                str(record.fields),
            )
        values = MAKERS[shape](fields, self._text_field)
        form = tuple(map(type, values))
        if self._form not in ((), form):
            raise Unfit(
                f"has text where the rows before it have turns, or the reverse ({self._first}); write all in one way",
                ClientKind.MIXED_SHAPES,
                str(record.fields),
            )
        sample = Sample(shape, values, record.file, record.line)
        if sample.characters() > MAX_LINE_BYTES:  # as long as a line may be; more would be held several times over
            raise Unfit(f"is longer than {MAX_LINE_BYTES:,} characters; break it up", text=texts_of(values)[0])
        for text in texts_of(values):
            if (why := fault(text)) is not None:
                raise Unfit(why, ClientKind.ENCODING, text)
        if not self._form:
            self.shape, self._form, self._first = shape, form, f"{record.file}:{record.line}"
        return sample

    def _lost(self, fields: Collection[str]) -> str | None:
        """Why these are not the fields that the user named: another one would be trained on without a word."""
        for name, theirs in self._names.items():
            if theirs in fields or theirs == name or name in _OPTIONAL:
                continue
            if name != "text":
                return no_field(fields, theirs, "name another with --columns")
            if self._wanted in (None, Shape.TEXT):
                return no_field(fields, theirs)
        return None

    def _renamed(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields, those of the column map under the standard names alone; a prompt of turns and its answer are one talk."""
        others = {name: value for name, value in fields.items() if self._names.get(name, name) == name}
        named = others | {name: fields[theirs] for name, theirs in self._names.items() if theirs in fields}
        prompt, completion = named.get("prompt"), named.get("completion")
        if isinstance(prompt, list) and isinstance(completion, list):
            return {"messages": prompt + completion}
        if isinstance(prompt, list) and isinstance(completion, str) and completion.strip():
            return {"messages": [*prompt, {"role": "assistant", "content": completion}]}
        return named

    def _missing(self, fields: Mapping[str, Any]) -> str:
        if self._wanted in (None, Shape.TEXT):
            return no_field(fields, self._text_field)
        names = " and ".join(repr(name) for name in COLUMNS[self._wanted or Shape.TEXT])
        named = ", ".join(map(repr, fields)) or "none"
        return f"has no fields {names}: its fields are {named}; name them with --columns, as prompt=question"


def _shape_of(fields: Mapping[str, Any], wanted: Shape | None) -> Shape | None:
    """The shape that the fields can be made into: the one wanted, or the richest; None where that cannot be."""
    for shape, alternatives in _NEEDED.items():
        if wanted in (None, shape) and any(all(name in fields for name in names) for names in alternatives):
            return shape
    return None


# Shape -> the sets of fields that it can be made of; the first shape that fits is taken.
_NEEDED: Mapping[Shape, tuple[tuple[str, ...], ...]] = {
    Shape.PREFERENCE: (("chosen", "rejected"),),
    Shape.CHAT: (*((name,) for name in CONVERSATIONS), ("instruction", "output")),
    Shape.PROMPT_COMPLETION: (("prompt", "completion"), ("instruction", "output")),
    Shape.TEXT: (("text",),),
}


def _spoken(shape: Shape | None) -> str:
    return str(shape).replace("_", " and ")
