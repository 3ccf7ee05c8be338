"""Rows as training reads them: how many tokens, how many of them are trained, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from smolorad.chat.encode import ID_BYTES
from smolorad.chat.rows import EncodedRow
from smolorad.chat.spans import Span
from smolorad.chat.tracked import Tracked
from smolorad.chat.turns import Value
from smolorad.corpus.shapes import texts_of
from smolorad.corpus.tokenizer import ModelText
from smolorad.domain import ProblemKind, Shape

Problem = tuple[ProblemKind, str]


class Measured(NamedTuple):
    """A row as training reads it, and what is wrong with it."""

    row: EncodedRow
    problems: Sequence[Problem] = ()


class Meter:
    """Measures the rows of one shape for one model, cut at `max_length` tokens."""

    def __init__(self, model: ModelText, shape: Shape, max_length: int, *, parse_special: bool = False) -> None:
        self._model = model
        self._shape = shape
        self._max_length = max_length
        self._parse_special = parse_special
        self._rows = model.rows(parse_special=parse_special, compare=True)

    def measure(self, rows: Sequence[tuple[Value, ...]]) -> list[Measured]:
        """What the model makes of each row; of a preference the longer answer, as that one decides what fits."""
        if self._shape is not Shape.PREFERENCE:
            encoded = self._rows.encode(self._shape, rows)
            return [Measured(row, self._problems(row, values)) for row, values in zip(encoded, rows, strict=True)]
        return [
            Measured(max(pair, key=lambda row: row.tokens), [*self._of_pair(*pair), *self._in_text(values)])
            for pair, values in zip(self._rows.pairs(rows), rows, strict=True)
        ]

    def _problems(self, row: EncodedRow, values: tuple[Value, ...]) -> Sequence[Problem]:
        sound = row.spans and not row.unended and row.shown is None and row.tokens <= self._max_length
        if sound and not (0 < self._model.context < row.tokens) and not self._has_control_tokens(values):
            return ()  # as nearly all are
        return [*self._of_row(row), *self._in_text(values)]

    def _of_row(self, row: EncodedRow) -> Iterator[Problem]:
        if row.refused:
            change = "" if self._model.template is None else "; change the turns, or choose another model"
            yield ProblemKind.TEMPLATE, f"cannot be shown to the model: {row.refused}{change}"
            return
        if row.shown is not None:
            for change in row.shown.changes:
                yield ProblemKind.TEMPLATE, f"reads otherwise than it was written: the chat template {change}"
        if row.unended:
            yield ProblemKind.MISSING_EOS, self._unended()
        elif row.shown is not None and row.shown.unmarked:
            why = "the chat template's generation marks leave out the token that ends an answer; it is trained all the same"
            yield ProblemKind.MISSING_EOS, f"has an answer without its end: {why}"
        yield from self._too_long(row)
        if not row.spans:
            yield ProblemKind.FULLY_MASKED, f"has no token that is trained: {_why_nothing(row)}"
        elif row.spans[0][0] >= self._max_length:
            why = f"has its answer behind token {row.spans[0][0]:,}, and training reads {self._max_length:,}"
            yield ProblemKind.TARGET_TRUNCATED, f"{why}; shorten what stands before it, or raise --max-length"

    def _of_pair(self, better: EncodedRow, worse: EncodedRow) -> Iterator[Problem]:
        longer = max(better, worse, key=lambda row: row.tokens)
        found = list(self._of_row(longer))
        yield from found
        if any(kind in (ProblemKind.FULLY_MASKED, ProblemKind.TARGET_TRUNCATED) for kind, _ in found) or longer.refused:
            return
        if not (better.refused or worse.refused) and better.cut(self._max_length).ids == worse.cut(self._max_length).ids:
            why = f"has two answers that differ only behind token {self._max_length:,}, and training reads no further"
            yield ProblemKind.TARGET_TRUNCATED, f"{why}; shorten what stands before, or raise --max-length"

    def _unended(self) -> str:
        if self._shape is Shape.TEXT or self._model.template is None:
            return "has no end, as the model names no end-of-text token; set its eos_token"
        return "has an answer that the chat template does not end with an end-of-text token; choose another template"

    def _too_long(self, row: EncodedRow) -> Iterator[Problem]:
        context, tokens = self._model.context, row.tokens
        if 0 < context < tokens:
            advice = "cut it with --chunk-size" if self._shape is Shape.TEXT else "shorten it"
            yield ProblemKind.BEYOND_CONTEXT, f"has {tokens:,} tokens, and the model's context has {context:,}; {advice}"

    def _has_control_tokens(self, values: tuple[Value, ...]) -> bool:
        return not self._parse_special and any(map(self._model.control.within, texts_of(values)))

    def _in_text(self, values: tuple[Value, ...]) -> Iterator[Problem]:
        """Control tokens that stand in the text, and are read as text."""
        if self._parse_special:
            return
        for text in texts_of(values):
            for found in self._model.control.found_in(text):
                why = f"has the spelling of the control token {found[0]!r}, which is read as text"
                yield ProblemKind.CONTROL_TOKENS, f"{why}; --parse-special reads it as a control token"
                return


def _why_nothing(row: EncodedRow) -> str:
    if row.shown is not None and row.shown.excluded:
        return "the chat template's generation marks leave its answers out"
    if row.shown is not None:
        return "the chat template shows no answer of it; add one, or remove the row"
    return "add an answer, or remove the row"


class ShownRow(NamedTuple):
    """A row's text as training reads it, and from where to where in it training trains (in characters)."""

    text: str
    spans: Sequence[Span]


def shown_rows(
    model: ModelText | None, shape: Shape, rows: Sequence[tuple[Value, ...]], *, parse_special: bool = False
) -> list[ShownRow]:
    """Rows as the model reads them, each with exactly the tokens that are trained; of preferences the answer chosen."""
    if model is None:
        return [_bare(shape, row) for row in rows]
    encoder = model.rows(parse_special=parse_special)
    encoded = [better for better, _ in encoder.pairs(rows)] if shape is Shape.PREFERENCE else encoder.encode(shape, rows)
    return [_shown(model, one, row, parse_special) for one, row in zip(encoded, rows, strict=True)]


def _shown(model: ModelText, row: EncodedRow, values: tuple[Value, ...], parse_special: bool) -> ShownRow:
    if row.refused:
        return ShownRow(_as_text(values), [])
    if row.shown is not None:
        text, places = str.__str__(row.shown.text), list(row.places)
    else:
        text, places = _framed(model, row, "".join(map(str, values[:2])), parse_special)
    return ShownRow(text[: places[-1][1]], [_characters(places, begin, end) for begin, end in row.spans])


def _framed(model: ModelText, row: EncodedRow, text: str, parse_special: bool) -> tuple[str, list[Span]]:
    """A text with the tokens that training puts around it, and where in that each token stands."""
    ((ids, places),) = model.encoder(parse_special=parse_special).encode_shown([Tracked.of_turn(text, 0)])
    head = len(model.frame.head) // ID_BYTES
    names = [model.tokenizer.id_to_token(one) or "" for one in row.token_ids()]
    before, behind = names[:head], names[head + len(ids) :]
    lengths = [*map(len, before), len(text), *map(len, behind)]
    edges = list(accumulate(lengths, initial=0))
    whole = list(pairwise(edges))
    begin = edges[head]
    inner = [(begin + first, begin + last) for first, last in places]
    return "".join([*before, text, *behind]), [*whole[:head], *inner, *whole[head + 1 :]]


def _characters(places: Sequence[Span], begin: int, end: int) -> Span:
    """From tokens to characters; a tokenizer may not count the space before a word as a place of its token."""
    first = places[begin][0] if begin == 0 else min(places[begin - 1][1], places[begin][0])
    return first, places[end - 1][1]


def _bare(shape: Shape, row: tuple[Value, ...]) -> ShownRow:
    """A row where no model is at hand: what will be trained is known for texts alone."""
    if not isinstance(row[0], str):
        return ShownRow(_as_text(row if shape is not Shape.PREFERENCE else row[:2]), [])
    text = row[0] if shape is Shape.TEXT else f"{row[0]}{row[1]}"
    return ShownRow(text, [(0 if shape is Shape.TEXT else len(row[0]), len(text))])


def _as_text(values: tuple[Value, ...]) -> str:
    """A row without a template."""
    return "\n".join(
        value if isinstance(value, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in value) for value in values
    )
