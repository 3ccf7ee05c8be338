"""From records to rows of one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from smolora.common.problems import ProblemKind, RowProblem
from smolora.common.text.jsonl import no_field
from smolora.common.text.lines import MAX_LINE_BYTES
from smolora.common.text.rows import Record, Row, excerpt, fault, quoted
from smolorad.chat.turns import Value
from smolorad.corpus.columns import Fields, values_of
from smolorad.corpus.fields import FORMS, OPTIONAL, REFUSED, SPLIT, Form, fitting, is_empty, refusal
from smolorad.corpus.named_splits import split_named
from smolorad.corpus.shapes import COLUMNS, Sample, texts_of
from smolorad.corpus.unfit import Unfit
from smolorad.domain import Shape

_TEXT = "text"
_MOST_PLANS = 1000  # rows of JSON may each have other fields


class _Plan(NamedTuple):
    """The plan for rows with the same fields."""

    form: Form | None
    refused: tuple[str, ...]  # fields that refuse a row unless they are empty
    others: list[str]  # fields, as the file calls them, that are not used and have said nothing so far


class Shaper:
    """Makes rows of records; all of the shape asked for, or else of the shape of the first.

    `split` is what the file at hand is named as. `unused` collects the fields that are not used.
    """

    def __init__(self, shape: Shape | None, text_field: str, columns: Mapping[str, str], *, by_split: bool = True) -> None:
        self.shape = shape
        self.split = ""
        self.unused: dict[str, None] = {}
        self._wanted = shape
        self._names = {_TEXT: text_field} | dict(columns)
        self._text_field = self._names[_TEXT]
        # The fields that the user named, and, by the names in the file, what they are.
        self._named = {name: theirs for name, theirs in self._names.items() if theirs != name}
        self._missing_ones = {theirs for name, theirs in self._named.items() if name in OPTIONAL}
        self._there: dict[str, None] = {}  # the fields there are, as long as one of those is missing
        self.by_field: Counter[str] = Counter()  # rows by the split that they say themselves
        self._by_split = by_split
        self._first = ""
        self._form: tuple[type, ...] = ()
        self._as_turns = False
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._plain: set[tuple[str, ...]] = set()  # fields of rows of text that leave nothing to do but to take the text

    def wanted(self) -> tuple[str, ...]:
        """Names of the fields that a row of text or of a column map needs."""
        return tuple(self._names.values())

    def select(self, columns: Sequence[str]) -> list[str]:
        """The columns of a table that are read; the others are noted. Raises Unfit where there are no rows in it."""
        if (why := self.unfit_columns(columns)) is not None:
            raise Unfit(why)
        read = self._read(columns)
        for name in columns:
            if name not in read:
                self._not_used(name)
        return read

    def unfit_columns(self, columns: Sequence[str]) -> str | None:
        """Why a table with these columns has no rows; None where it has."""
        self._seen(columns)
        why = self._lost(columns)
        if why is None and fitting(self._renamed(dict.fromkeys(columns)), self.shape, self._named) is None:
            why = self._missing(columns)
        if why is not None:
            return why.replace("field", "column", 1).replace("its fields", "its columns")
        twice = next((name for name in self._read(columns) if columns.count(name) > 1), None)
        return twice and f"names the column {twice!r} {columns.count(twice)} times; rename all but one"

    def _read(self, columns: Sequence[str]) -> list[str]:
        """The columns that a row may be made of, or be refused for."""
        fields = self._renamed(dict.fromkeys(columns))
        forms = [form for form in FORMS if form.fits(fields, self.shape)]
        names = {self._names.get(name, name) for form in forms for name in form.used}
        if any(form.shape is not Shape.TEXT for form in forms):
            names.update(REFUSED)
        if self._by_split:
            names.add(SPLIT)
        return [name for name in dict.fromkeys(columns) if name in names]

    def never_seen(self) -> str | None:
        """Which fields the user named that a row may lack, but all rows lacked; None where there are no such."""
        if not self._missing_ones or not self._there:
            return None
        names = quoted(sorted(self._missing_ones))
        return f"names {names}, which no row has; the fields are {quoted(list(self._there))}"

    def text(self, row: Row) -> Sample | RowProblem:
        """The row of a plain text."""
        if self.shape is Shape.TEXT:
            return Sample(Shape.TEXT, (row.text,), row.file, row.line, self.split)
        return self.shaped(Record({self._text_field: row.text}, row.file, row.line))

    def shaped(self, record: Record) -> Sample | RowProblem:
        """The row, or the problem with it."""
        fields = record.fields
        # Text is by far the most frequent, and may be longest.
        if tuple(fields) in self._plain:
            text = fields[self._text_field]
            if isinstance(text, str) and len(text) <= MAX_LINE_BYTES and fault(text) is None:
                return Sample(Shape.TEXT, (text.strip(),), record.file, record.line, self.split)
        try:
            return self._convert(record)
        except Unfit as unfit:
            return RowProblem(record.file, record.line, str(unfit), unfit.kind, excerpt(unfit.text))
        except RecursionError:
            return RowProblem(record.file, record.line, "is nested too deeply to be read; flatten it")

    def _convert(self, record: Record) -> Sample:
        self._seen(record.fields)
        if (lost := self._lost(record.fields)) is not None:
            raise Unfit(lost, text=str(record.fields))
        fields = self._renamed(record.fields)
        plan = self._plan(fields, record.fields)
        form = plan.form
        if form is not None and any(fields[name] is None for name in form.needed):
            there = [name for name, value in fields.items() if not is_empty(value)]
            form = fitting(there, self.shape, self._named) or form
            plan = self._new_plan(form, fields, record.fields)
        if form is None:
            raise self._unfit_shape(record.fields, fields)
        for name in plan.refused:
            if (why := refusal(name, fields[name], form.shape)) is not None:
                raise Unfit(why.format(self._names.get(name, name)), text=str(record.fields))
        row = Fields(form, fields, self._names, self._not_used, self._as_turns)
        sample = Sample(form.shape, self._checked(form, row, record), record.file, record.line, self._split_of(fields))
        self._note_others(plan, record.fields)
        if form.shape is Shape.TEXT and not (plan.others or self._missing_ones or SPLIT in fields):
            self._plain.add(tuple(record.fields))
        return sample

    def _checked(self, form: Form, row: Fields, record: Record) -> tuple[Value, ...]:
        """The values of a row that may stand among those before it."""
        values = values_of(form, row)
        types = tuple(map(type, values))
        if self._form not in ((), types):
            what = "has a system prompt where the rows before it have none, or text where they have turns, or the reverse"
            raise Unfit(f"{what} ({self._first}); write all in one way", ProblemKind.MIXED_SHAPES, str(record.fields))
        texts = texts_of(values)
        if sum(map(len, texts)) > MAX_LINE_BYTES:  # as long as a line may be; more would be held several times over
            raise Unfit(f"is longer than {MAX_LINE_BYTES:,} characters; break it up", text=texts[0])
        for text in texts:
            if (why := fault(text)) is not None:
                raise Unfit(why, ProblemKind.ENCODING, text)
        if not self._form:
            self.shape, self._form, self._first = form.shape, types, f"{record.file}:{record.line}"
            self._plans.clear()
            asked = all(isinstance(row.values[name], str) for name in form.needed)
            self._as_turns = asked and not isinstance(values[0], str)
        return values

    def _split_of(self, fields: Mapping[str, Any]) -> str:
        """The row's own split field has precedence over its file's name."""
        said = fields.get(SPLIT) if self._by_split else None
        split = split_named(said) if isinstance(said, str) else ""
        if split:
            self.by_field[split] += 1
        return split or self.split

    def _plan(self, fields: Mapping[str, Any], theirs: Mapping[str, Any]) -> _Plan:
        names = tuple(theirs)
        if (known := self._plans.get(names)) is not None:
            return known
        plan = self._new_plan(fitting(fields, self.shape, self._named), fields, theirs)
        if len(self._plans) < _MOST_PLANS:
            self._plans[names] = plan
        return plan

    def _new_plan(self, form: Form | None, names: Collection[str], theirs: Collection[str]) -> _Plan:
        used = () if form is None else form.used
        refused = tuple(name for name in names if name in REFUSED and name not in used)
        spelled = {self._names.get(name, name) for name in used}
        return _Plan(form, refused, [name for name in theirs if name not in spelled and name not in self.unused])

    def _note_others(self, plan: _Plan, fields: Mapping[str, Any]) -> None:
        """Notes the fields with values that are not used."""
        for name in list(plan.others):
            value = fields[name]
            is_split = name == SPLIT and self._by_split and isinstance(value, str) and split_named(value)
            if name in self.unused or not (is_empty(value) or is_split):
                self._not_used(name)
                plan.others.remove(name)

    def _not_used(self, name: str) -> None:
        if len(self.unused) < _MOST_PLANS:
            self.unused[name] = None

    def _seen(self, fields: Collection[str]) -> None:
        if self._missing_ones:
            self._missing_ones.difference_update(fields)
            self._there |= dict.fromkeys(list(fields)[:_MOST_PLANS])

    def _lost(self, fields: Collection[str]) -> str | None:
        """Why these are not the fields that the user named: another one would be trained on silently."""
        for name, theirs in self._named.items():
            if theirs in fields or name in OPTIONAL:
                continue
            if name != _TEXT:
                return no_field(fields, theirs, "name another with --columns")
            if self._wanted in (None, Shape.TEXT):
                return no_field(fields, theirs)
        return None

    def _renamed(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields, those of the column map under the standard names alone."""
        if not self._named:
            return fields
        taken = set(self._named.values())
        others = {name: value for name, value in fields.items() if name not in self._named and name not in taken}
        return others | {name: fields[theirs] for name, theirs in self._names.items() if theirs in fields}

    def _unfit_shape(self, theirs: Mapping[str, Any], fields: Mapping[str, Any]) -> Unfit:
        other = fitting(fields, None, self._named) if self.shape else None
        if other is None or self._wanted:
            return Unfit(self._missing(theirs), text=str(theirs))
        return Unfit(
            f"is a row of {_spoken(other.shape)}, while those before it are of {_spoken(self.shape)} ({self._first}); "
            "keep one shape in a dataset, or choose it with --shape and drop the others",
            ProblemKind.MIXED_SHAPES,
            str(theirs),
        )

    def _missing(self, fields: Collection[str]) -> str:
        if self._wanted is None and len(fields) > 1:  # they may be those of another shape
            return f"{no_field(fields, self._text_field)}, or several with --columns, as prompt=question,completion=answer"
        if self._wanted in (None, Shape.TEXT):
            return no_field(fields, self._text_field)
        names = " and ".join(repr(name) for name in COLUMNS[self._wanted or Shape.TEXT])
        named = quoted(list(fields)) if fields else "none"
        return f"has no fields {names}: its fields are {named}; name them with --columns, as prompt=question"


def _spoken(shape: Shape | None) -> str:
    return str(shape).replace("_", " and ")
