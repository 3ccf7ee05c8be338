"""Rows of one shape: their columns, their texts, and the key that equal ones share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from smolora.common.text.rows import excerpt
from smolorad.chat.turns import Value
from smolorad.domain import Shape

COLUMNS: Mapping[Shape, tuple[str, ...]] = {
    Shape.TEXT: ("text",),
    Shape.PROMPT_COMPLETION: ("prompt", "completion"),
    Shape.CHAT: ("messages",),
    Shape.PREFERENCE: ("prompt", "chosen", "rejected"),
}


class Sample(NamedTuple):
    """A row: its values in the order of the shape's columns, and where it came from."""

    shape: Shape
    values: tuple[Value, ...]
    file: str
    line: int
    split: str = ""  # the one that it is named as

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


def prompt_of(shape: Shape, values: tuple[Value, ...]) -> Value:
    """What stands before the answer; of a conversation everything up to its first answer."""
    first = values[0]
    if shape is not Shape.CHAT or isinstance(first, str):
        return first
    until = next((at for at, turn in enumerate(first) if turn.role == "assistant"), len(first))
    return first[:until]


def texts_of(values: tuple[Value, ...]) -> list[str]:
    """Every text in a row's values."""
    return [text for value in values for text in ([value] if isinstance(value, str) else [turn.content for turn in value])]
