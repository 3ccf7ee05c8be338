"""Rows as training reads them: their tokens, which of them are scored, and what is wrong with that.

What training adds is TRL's: text and completions end in the end-of-text token, conversations go through the chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.turns import Turns
from smolorad.corpus.tokens import ID_BYTES, ModelText
from smolorad.corpus.values import Value
from smolorad.domain import ProblemKind, Shape

Spans = list[tuple[int, int]]
Problem = tuple[ProblemKind, str]


class Measured(NamedTuple):
    """The ids of a row as 32-bit numbers, from where to where they are scored (in tokens), and what is wrong with it."""

    ids: bytes
    spans: Spans
    problems: Sequence[Problem] = ()
    added: int = 0  # tokens of it that training adds

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return len(self.ids) // ID_BYTES

    @property
    def scored(self) -> int:
        """How many of them are scored."""
        return sum([end - begin for begin, end in self.spans])


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row's text as the model reads it, and from where to where in it training scores (in characters)."""

    text: str
    spans: Spans
    problem: str = ""


class Meter:
    """Measures the rows of one shape for one model, cut at `max_length` tokens."""

    def __init__(self, model: ModelText, shape: Shape, max_length: int) -> None:
        self._model = model
        self._shape = shape
        self._max_length = max_length
        self._measure = {
            Shape.TEXT: self._texts,
            Shape.PROMPT_COMPLETION: self._completions,
            Shape.CHAT: self._chats,
            Shape.PREFERENCE: self._preferences,
        }[shape]
        self._template = template_of(model) if shape in (Shape.CHAT, Shape.PREFERENCE) else None

    def measure(self, rows: Sequence[tuple[Value, ...]]) -> list[Measured]:
        """What the model makes of each row."""
        return [self._judged(row) for row in self._measure(rows)]

    def _judged(self, row: Measured) -> Measured:
        """The row with what is wrong with its length and its mask."""
        tokens, most = row.tokens, self._max_length
        if row.problems and not row.spans:  # it never gets to the model as it is
            return row
        if tokens <= most and row.spans and not (0 < self._model.context < tokens):
            return row
        problems = list(row.problems)
        if self._model.context and tokens > self._model.context:
            mend = "cut it with --chunk-size" if self._shape is Shape.TEXT else "shorten it"
            why = f"has {tokens:,} tokens, and the model's context holds {self._model.context:,}; {mend}"
            problems.append((ProblemKind.BEYOND_CONTEXT, why))
        if not row.spans and not problems:
            problems.append((ProblemKind.FULLY_MASKED, "has no token that is scored; add an answer or remove the row"))
        elif row.spans and row.spans[0][0] >= most:
            why = f"has its answer behind token {row.spans[0][0]:,}, and training reads {most:,}; shorten what stands before it"
            problems.append((ProblemKind.TARGET_TRUNCATED, f"{why}, or raise --max-length"))
        return row._replace(problems=problems)

    def _texts(self, rows: Sequence[tuple[Value, ...]]) -> list[Measured]:
        head, end, tail, problems = self._model.head, self._model.end, self._model.tail, self._unended()
        found = []
        for ids in self._model.encode([_string(row[0]) for row in rows]):
            whole = head + ids + (b"" if end and ids.endswith(end) else end) + tail
            tokens = len(whole) // ID_BYTES
            found.append(Measured(whole, [(0, tokens)], problems, tokens - len(ids) // ID_BYTES))
        return found

    def _unended(self) -> Sequence[Problem]:
        if self._model.end:
            return ()
        return ((ProblemKind.MISSING_EOS, "has no end, as the model names no end-of-text token; set its eos_token"),)

    def _completions(self, rows: Sequence[tuple[Value, ...]]) -> list[Measured]:
        prompts = self._model.encode([_string(row[0]) for row in rows])
        return self._answered([(_string(row[0]), _string(row[1])) for row in rows], prompts)

    def _answered(self, pairs: Sequence[tuple[str, str]], prompts: Sequence[bytes]) -> list[Measured]:
        model = self._model
        found = []
        for prompt, whole in zip(prompts, model.encode([prompt + answer for prompt, answer in pairs]), strict=True):
            ids = model.head + whole + (b"" if model.end and whole.endswith(model.end) else model.end) + model.tail
            begin = (len(model.head) + len(prompt)) // ID_BYTES
            added = (len(ids) - len(whole)) // ID_BYTES
            found.append(Measured(ids, [(begin, len(ids) // ID_BYTES)], self._unended(), added))
        return found

    def _preferences(self, rows: Sequence[tuple[Value, ...]]) -> list[Measured]:
        """The longer answer of each pair, as that one decides what fits."""
        if not isinstance(rows[0][0], str):
            longer = [(_longer(*row),) for row in rows]
            return self._chats(longer)
        prompts = self._model.encode([_string(row[0]) for row in rows])
        pairs = [(_string(row[0]), max(_string(row[1]), _string(row[2]), key=len)) for row in rows]
        return self._answered(pairs, prompts)

    def _chats(self, rows: Sequence[tuple[Value, ...]]) -> list[Measured]:
        shown = [rendered(self._template, _turns(row[0]), self._model.ends) for row in rows]
        whole = self._model.encode([one.text for one in shown])
        return [self._chat(one, ids) for one, ids in zip(shown, whole, strict=True)]

    def _chat(self, shown: Rendered, ids: bytes) -> Measured:
        if shown.problem:
            return Measured(ids, [], ((ProblemKind.TEMPLATE, shown.problem),))
        edges = [edge for span in shown.spans for edge in span]
        places = [len(part) // ID_BYTES for part in self._model.encode([shown.text[:edge] for edge in edges])]
        spans = list(zip(places[::2], places[1::2], strict=True))
        ends = self._model.ends
        if ends and all(shown.text.endswith(ends, begin, stop) for begin, stop in shown.spans):
            return Measured(ids, spans)
        why = "has a turn of the assistant that the chat template does not end with an end-of-text token; mend the template"
        return Measured(ids, spans, ((ProblemKind.MISSING_EOS, why),))


def template_of(model: ModelText | None) -> ChatTemplate | None:
    """The model's chat template; None where it has none that works."""
    try:
        return ChatTemplate(model.template, model.special) if model is not None and model.template else None
    except TemplateRefuses:
        return None


def rendered(template: ChatTemplate | None, turns: Turns, ends: tuple[str, ...]) -> Rendered:
    """A conversation as the model reads it; where the template refuses it, its bare turns and the reason."""
    why = "the model has no chat template that works; choose a model that has one with --model"
    if template is not None:
        try:
            text, spans = template.spans(turns)
            return Rendered(text, [(begin, _to_its_end(text, begin, stop, ends)) for begin, stop in spans])
        except TemplateRefuses as refused:
            why = f"the chat template refuses it ({refused}); mend the turns, or choose another model"
    return Rendered("\n".join(f"{turn.role}: {turn.content}" for turn in turns), [], f"cannot be shown to the model: {why}")


def _to_its_end(text: str, begin: int, stop: int, ends: tuple[str, ...]) -> int:
    """Where a turn is over that ends in one of these tokens: the line break behind it is not scored."""
    said = text[begin:stop].rstrip()
    return begin + len(said) if ends and said.endswith(ends) else stop


def shown_rows(model: ModelText | None, shape: Shape, rows: Sequence[tuple[Value, ...]]) -> list[Rendered]:
    """Rows as the model reads them, each with what is scored; of preferences the answer chosen."""
    template = template_of(model)
    end = "" if model is None else model.special.get("eos_token", "")
    ends = () if model is None else model.ends

    def one(row: tuple[Value, ...]) -> Rendered:
        if shape is Shape.TEXT:
            text = _string(row[0]) + end
            return Rendered(text, [(0, len(text))])
        if isinstance(row[0], str):
            text = row[0] + _string(row[1]) + end
            return Rendered(text, [(len(row[0]), len(text))])
        return rendered(template, row[0] if shape is Shape.CHAT else (*row[0], *_turns(row[1])), ends)

    return [one(row) for row in rows]


def _longer(prompt: Value, chosen: Value, rejected: Value) -> Turns:
    return (*_turns(prompt), *max(_turns(chosen), _turns(rejected), key=lambda turns: sum(len(turn.content) for turn in turns)))


def _string(value: Value) -> str:
    assert isinstance(value, str)
    return value


def _turns(value: Value) -> Turns:
    assert not isinstance(value, str)
    return value
