"""Rows of each shape as token ids: batches of columns in, batches of columns out.

The shape follows from the columns: `text`; `prompt` and `completion`; `messages`; `prompt`, `chosen` and `rejected`. A prompt
or an answer may be a text, or a list of messages. Which tokens are trained is decided in `smolorad.chat.rows`: they have their
own id as label, the others -100.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolorad import domain
from smolorad.chat.rows import EncodedRow, RowEncoder
from smolorad.chat.turns import Turn, Turns, Value
from smolorad.errors import BadData

UNSCORED = -100

Batch = Mapping[str, Sequence[Any]]
Pair = tuple[EncodedRow, EncodedRow]
# Keys of a message that do not change what is learned.
_HARMLESS = frozenset({"role", "content", "weight", "name", "id"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rows of a dataset are, by their columns."""

    columns: tuple[str, ...]
    unit: str  # what is learned of a row, in words
    kind: domain.Shape

    @property
    def is_preference(self) -> bool:
        """Whether rows are pairs of a better and a worse answer."""
        return self.kind is domain.Shape.PREFERENCE


TEXT = Shape(("text",), "texts", domain.Shape.TEXT)
COMPLETION = Shape(("prompt", "completion"), "completions", domain.Shape.PROMPT_COMPLETION)
CHAT = Shape(("messages",), "assistant's turns", domain.Shape.CHAT)
PREFERENCE = Shape(("prompt", "chosen", "rejected"), "preferences", domain.Shape.PREFERENCE)


def shape_of(columns: Collection[str]) -> Shape:
    """The shape of a dataset with these columns; raises BadData for columns that cannot be trained on."""
    for shape in (PREFERENCE, COMPLETION, CHAT, TEXT):
        if set(shape.columns) <= set(columns):
            return shape
    raise BadData(
        f"Nothing can be learned of a dataset with the columns {', '.join(sorted(columns))}; prepare it with text, prompt and "
        "completion, messages, or prompt, chosen and rejected."
    )


class RowTokenizer:
    """From batches of a shape's columns to `input_ids` and `labels`, or for pairs `prompt_ids`, `chosen_ids`, `rejected_ids`.

    Rows are cut to `max_length` tokens; None does not cut, and pairs are left to TRL's collator.
    """

    def __init__(self, shape: Shape, encoder: RowEncoder, max_length: int | None) -> None:
        self.shape = shape
        self._encoder = encoder
        self._max_length = max_length

    def __getstate__(self) -> dict[str, Any]:
        # `datasets` hashes a transform to name its caches, of which it makes none for transforms.
        return {}

    def __call__(self, batch: Batch) -> dict[str, list[list[int]]]:
        """The columns; raises BadData for a row that the model's template cannot render."""
        if self.shape.is_preference:
            return _columns([_pair_columns(*pair) for pair in self.pairs(batch)])
        return _columns([_row_columns(row) for row in self.rows(batch)])

    def rows(self, batch: Batch) -> list[EncodedRow]:
        """Rows of any shape but pairs, cut."""
        encoded = self.uncut(batch)
        return encoded if self._max_length is None else [row.cut(self._max_length) for row in encoded]

    def uncut(self, batch: Batch) -> list[EncodedRow]:
        """Rows of any shape but pairs, whole."""
        return self._encoder.encode(self.shape.kind, self._values(batch))

    def pairs(self, batch: Batch) -> list[Pair]:
        """Pairs, not cut."""
        return self._encoder.pairs(self._values(batch))

    def _values(self, batch: Batch) -> list[tuple[Value, ...]]:
        return list(zip(*(map(_value, batch[column]) for column in self.shape.columns), strict=True))


def _value(cell: Any) -> Value:
    return cell if isinstance(cell, str) else _turns(cell)


def _turns(messages: Any) -> Turns:
    """Messages of `role` and `content`, and perhaps `weight`: with 0 a message is context alone. Raises BadData."""
    if isinstance(messages, Mapping):  # a column of structs of lists, as `datasets` before version 4 has it
        messages = [dict(zip(messages, turn, strict=True)) for turn in zip(*messages.values(), strict=True)]
    if not isinstance(messages, list):
        raise BadData(f"A row has {json.dumps(messages, default=str)[:80]} for a conversation; prepare the dataset again.")
    return tuple(_turn(message, number) for number, message in enumerate(messages, 1))


def _turn(message: Mapping[str, Any], number: int) -> Turn:
    role, content = message.get("role"), message.get("content")
    strange = sorted(key for key, value in message.items() if key not in _HARMLESS and value)
    if strange or not isinstance(role, str) or not isinstance(content, str):
        what = f"the field {strange[0]!r}" if strange else "no text as its role or its content"
        raise BadData(f"Turn {number} of a conversation has {what}, which training does not read; prepare the dataset again.")
    return Turn(role, content, message.get("weight") != 0)


def _row_columns(row: EncodedRow) -> dict[str, list[int]]:
    _check(row)
    ids = row.token_ids()
    labels = [UNSCORED] * len(ids)
    for begin, end in row.spans:
        labels[begin:end] = ids[begin:end]
    return {"input_ids": ids, "labels": labels}


def _pair_columns(better: EncodedRow, worse: EncodedRow) -> dict[str, list[int]]:
    _check(better)
    _check(worse)
    begin = better.spans[0][0] if better.spans and worse.spans else min(better.tokens, worse.tokens)
    chosen, rejected = better.token_ids(), worse.token_ids()
    return {"prompt_ids": chosen[:begin], "chosen_ids": chosen[begin:], "rejected_ids": rejected[begin:]}


def _check(row: EncodedRow) -> None:
    if row.refused:
        raise BadData(f"A row cannot be shown to the model: {row.refused}.")


def _columns(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, list[list[int]]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def scored_parts(row: EncodedRow) -> Iterator[tuple[int, int]]:
    """The trained tokens that are scored: the first of a row has nothing before it to be predicted from."""
    for begin, end in row.spans:
        if end > max(begin, 1):
            yield max(begin, 1), end
