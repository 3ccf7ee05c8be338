"""Text that keeps the origin of each character: every operation gives the text that `str` gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.chat.tracked import TEMPLATE, Tracked, attributed, concatenated, is_marked, join, marked, without_marks

WORDS = st.text("ab \n<|", max_size=12)
OPERATIONS: dict[str, Any] = {
    "strip": lambda text, other: text.strip(),
    "strip some": lambda text, other: text.strip(other or None),
    "lstrip": lambda text, other: text.lstrip("\n"),
    "rstrip": lambda text, other: text.rstrip(),
    "split": lambda text, other: text.split(),
    "split at": lambda text, other: text.split(other or "|"),
    "split once": lambda text, other: text.split("a", 1),
    "rsplit": lambda text, other: text.rsplit("b", 1),
    "lines": lambda text, other: text.splitlines(True),
    "partition": lambda text, other: text.partition(other or "a"),
    "rpartition": lambda text, other: text.rpartition(other or "a"),
    "replace": lambda text, other: text.replace("a", other),
    "replace nothing": lambda text, other: text.replace("", other),
    "prefix": lambda text, other: text.removeprefix(other),
    "suffix": lambda text, other: text.removesuffix(other),
    "add": lambda text, other: text + other,
    "add before": lambda text, other: other + text,
    "twice": lambda text, other: text * 2,
    "slice": lambda text, other: text[1:-1],
    "backwards": lambda text, other: text[::-1],
    "first": lambda text, other: text[:1],
    "characters": lambda text, other: list(text),
    "join": lambda text, other: text.join([other, other]),
    "str": lambda text, other: str(text),
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(text=WORDS, other=WORDS)
def test_each_operation_is_that_of_str_and_keeps_the_origins(name: str, text: str, other: str) -> None:
    expected = OPERATIONS[name](text, other)
    got = OPERATIONS[name](Tracked(text, "".join(chr(1 + at) for at in range(len(text)))), other)
    assert got == expected
    for part in got if isinstance(got, list | tuple) else [got]:
        assert isinstance(part, Tracked)
        assert len(part.origins) == len(part)
        replaced_whole = name == "replace" and not text.strip("a")
        if name != "replace nothing" and not replaced_whole:
            for character, origin in zip(str.__str__(part)[:], part.origins, strict=True):
                assert origin == TEMPLATE or text[ord(origin) - 1] == character


@given(st.lists(st.tuples(WORDS, st.integers(0, 3)), max_size=5))
def test_texts_are_concatenated_with_their_origins(parts: list[tuple[str, int]]) -> None:
    found = concatenated([Tracked.of_turn(text, turn) for text, turn in parts])
    assert found == "".join(text for text, _ in parts)
    assert found.origins == "".join(chr(turn + 1) * len(text) for text, turn in parts)
    assert join("-", ["a", Tracked.of_turn("b", 0)]).origins == "\0\0\1"


def test_what_is_made_of_texts_comes_from_the_turn_of_most_of_them() -> None:
    first, second = Tracked.of_turn("ab", 0), Tracked.of_turn("abc", 1)
    assert attributed("xyz", first, {"content": second}, ["plain"]).origins == "\2\2\2"
    assert attributed("xyz", "plain", 3).origins == TEMPLATE * 3


def test_marks_stand_beside_the_origins() -> None:
    text = marked(Tracked.of_turn("ab", 0) + "c") + "d"
    assert [is_marked(origin) for origin in text.origins] == [True, True, True, False]
    assert without_marks(text.origins) == "\1\1\0\0"


def test_parts_have_the_origins_of_where_they_stand() -> None:
    text = Tracked("xaaa", "1234")
    assert [part.origins for part in text.split("aa") if isinstance(part, Tracked)] == ["1", "4"]
    assert [part.origins for part in text.rsplit("a", 1) if isinstance(part, Tracked)] == ["123", ""]
    assert text.replace("aa", Tracked("b", "9")).origins == "194"
