"""From a record's fields to a row of one of the shapes, by the names that TRL, Alpaca and ShareGPT give them.

Formats: TRL's dataset formats (huggingface.co/docs/trl/dataset_formats); Alpaca's `instruction`, `input`, `output`
(github.com/tatsu-lab/stanford_alpaca); ShareGPT's `conversations` of `from` and `value`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from smolora._models import ProblemKind as ClientKind
from smolora._models import RowProblem
from smolora._text.jsonl import kind_of, no_field
from smolora._text.lines import MAX_LINE_BYTES
from smolora._text.rows import Record, Row, excerpt, fault
from smolorad.domain import Shape

Turns = tuple[tuple[str, str], ...]  # role and content
Value = str | Turns

COLUMNS: Mapping[Shape, tuple[str, ...]] = {
    Shape.TEXT: ("text",),
    Shape.PROMPT_COMPLETION: ("prompt", "completion"),
    Shape.CHAT: ("messages",),
    Shape.PREFERENCE: ("prompt", "chosen", "rejected"),
}
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"} | {
    role: role for role in ("system", "tool", "developer")
}
_CONVERSATIONS = ("messages", "conversations", "conversation")
_SAME = "has the same answer in 'chosen' and 'rejected'; remove the row"
_OPTIONAL = ("input", "system")  # a row may lack them, whatever they are called
# The prompt that Alpaca's authors trained with, without and with an input.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
)


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
    return [text for value in values for text in ([value] if isinstance(value, str) else [turn[1] for turn in value])]


class _Unfit(Exception):
    """Why a record is no row."""

    def __init__(self, why: str, kind: ClientKind = ClientKind.MALFORMED, text: str = "") -> None:
        super().__init__(why)
        self.kind = kind
        self.text = text


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
        except _Unfit as unfit:
            return RowProblem(record.file, record.line, str(unfit), unfit.kind, excerpt(unfit.text))

    def _convert(self, record: Record) -> Sample:
        if (lost := self._lost(record.fields)) is not None:
            raise _Unfit(lost, text=str(record.fields))
        fields = self._renamed(record.fields)
        shape = _shape_of(fields, self.shape)
        if shape is None:
            other = _shape_of(fields, None) if self.shape else None
            if other is None or self._wanted:
                raise _Unfit(self._missing(record.fields), text=str(record.fields))
            raise _Unfit(
                f"is a row of {_spoken(other)}, while those before it are of {_spoken(self.shape)} ({self._first}); "
                "keep one shape in a dataset, or choose it with --shape and drop the others",
                ClientKind.MIXED_SHAPES,
                str(record.fields),
            )
        values = _MAKERS[shape](fields, self._text_field)
        form = tuple(map(type, values))
        if self._form not in ((), form):
            raise _Unfit(
                f"has text where the rows before it have turns, or the reverse ({self._first}); write all in one way",
                ClientKind.MIXED_SHAPES,
                str(record.fields),
            )
        sample = Sample(shape, values, record.file, record.line)
        if sample.characters() > MAX_LINE_BYTES:  # as long as a line may be; more would be held several times over
            raise _Unfit(f"is longer than {MAX_LINE_BYTES:,} characters; break it up", text=texts_of(values)[0])
        for text in texts_of(values):
            if (why := fault(text)) is not None:
                raise _Unfit(why, ClientKind.ENCODING, text)
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
    Shape.CHAT: (*((name,) for name in _CONVERSATIONS), ("instruction", "output")),
    Shape.PROMPT_COMPLETION: (("prompt", "completion"), ("instruction", "output")),
    Shape.TEXT: (("text",),),
}


def _spoken(shape: Shape | None) -> str:
    return str(shape).replace("_", " and ")


def _text(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    text = fields["text"]
    if not isinstance(text, str):
        mend = "make the column one of strings" if isinstance(text, bytes) else "put it in quotes or remove the row"
        raise _Unfit(f"has {kind_of(text)} in {text_field!r}, not text; {mend}")
    return (text.strip(),)


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise _Unfit(f"has {kind_of(value)} in {name!r}, not text; write text, or remove the row")
    return value


def _prompt_completion(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    if "completion" not in fields:
        instruction, given = _string(fields, "instruction"), fields.get("input") or ""
        prompt = _ALPACA[bool(given)].format(instruction=instruction, input=given)
        return prompt, _not_empty(_string(fields, "output"), "output", prompt)
    prompt = _string(fields, "prompt")
    return prompt, _not_empty(_string(fields, "completion"), "completion", prompt)


def _not_empty(text: str, name: str, prompt: str) -> str:
    if text.strip():
        return text
    raise _Unfit(
        f"has nothing in {name!r}, so there is nothing to learn; write the answer or remove the row",
        ClientKind.EMPTY_COMPLETION,
        prompt,
    )


def _chat(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    name = next((name for name in _CONVERSATIONS if name in fields), None)
    if name is None:
        given = fields.get("input") or ""
        asked = _string(fields, "instruction") + (f"\n\n{given}" if given else "")
        return ((("user", asked), ("assistant", _not_empty(_string(fields, "output"), "output", asked))),)
    turns = _turns(fields[name], name)
    if isinstance(system := fields.get("system"), str) and system.strip() and turns[0][0] != "system":
        turns = (("system", system), *turns)
    if not any(role == "assistant" and content.strip() for role, content in turns):
        raise _Unfit(
            "has no turn of the assistant that says something, so there is nothing to learn; add the answer or remove the row",
            ClientKind.EMPTY_COMPLETION,
            turns[0][1],
        )
    return (turns,)


def _turns(value: Any, name: str) -> Turns:
    """Turns of `role` and `content`, or of ShareGPT's `from` and `value`; also as JSON within a table's text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _Unfit(f"has text in {name!r}, not a list of turns; write turns with role and content", text=value) from None
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        # Turns as `datasets` before version 4 keeps them: a list of roles and one of contents.
        value = [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind_of(value)
        raise _Unfit(f"has {what} in {name!r}, not turns; write a list of turns with role and content, or remove the row")
    return tuple(_turn(turn, name, number) for number, turn in enumerate(value, 1))


def _turn(turn: Any, name: str, number: int) -> tuple[str, str]:
    place = f"turn {number} of {name!r}"
    if not isinstance(turn, dict):
        raise _Unfit(f"has {kind_of(turn)} as {place}; write an object with role and content")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise _Unfit(f"has {json.dumps(role)[:40]} as the role of {place}; write system, user, assistant or tool")
    if turn.get("tool_calls"):
        raise _Unfit(f"calls a tool in {place}, and of a turn only its text is kept; write the call as text, or remove the row")
    if isinstance(content, list):  # parts, as of a model that also sees pictures
        content = _joined(content)
    if not isinstance(content, str):
        raise _Unfit(f"has {kind_of(content)} as the content of {place}, not text; write text, or remove the row")
    return _ROLES[role.lower()], content


def _joined(parts: list[Any]) -> str | None:
    """The text of a turn's parts; None where one is something else."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None for part in parts]
    return "".join(text for text in texts if text is not None) if all(isinstance(text, str) for text in texts) else None


def _preference(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    chosen, rejected, prompt = fields["chosen"], fields["rejected"], fields.get("prompt")
    if chosen == rejected and chosen:
        raise _Unfit(_SAME, ClientKind.EMPTY_COMPLETION, str(prompt or chosen))
    if isinstance(chosen, list) or isinstance(rejected, list):
        better, worse = _turns(chosen, "chosen"), _turns(rejected, "rejected")
        if isinstance(prompt, list):
            return _differing(_turns(prompt, "prompt"), better, worse)
        # UltraFeedback and others repeat the prompt in both answers.
        common = _common(better, worse)
        if isinstance(prompt, str) and not common:
            return _differing((("user", prompt),), better, worse)
        return _differing(better[:common], better[common:], worse[common:])
    good, bad = _string(fields, "chosen"), _string(fields, "rejected")
    if prompt is not None:
        return _differing(_string(fields, "prompt"), good, bad)
    common = _common(good, bad)
    while common > 0 and not good[common - 1].isspace():  # whole words
        common -= 1
    return _differing(good[:common], good[common:], bad[common:])


def _differing(prompt: Value, chosen: Value, rejected: Value) -> tuple[Value, ...]:
    text = prompt if isinstance(prompt, str) else " ".join(content for _, content in prompt)
    if not prompt:
        raise _Unfit("has no prompt: 'chosen' and 'rejected' begin differently; write it into 'prompt'", text=text)
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        said = value if isinstance(value, str) else "".join(content for _, content in value)
        if not said.strip():
            raise _Unfit(
                f"has no answer in {name!r}, so there is nothing to learn; write it or remove the row",
                ClientKind.EMPTY_COMPLETION,
                text,
            )
    if chosen == rejected:
        raise _Unfit(_SAME, ClientKind.EMPTY_COMPLETION, text)
    return prompt, chosen, rejected


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many of the first elements are equal."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


_MAKERS: Mapping[Shape, Callable[[Mapping[str, Any], str], tuple[Value, ...]]] = {
    Shape.TEXT: _text,
    Shape.PROMPT_COMPLETION: _prompt_completion,
    Shape.CHAT: _chat,
    Shape.PREFERENCE: _preference,
}
