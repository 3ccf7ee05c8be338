"""Words are kept, in order; pieces have their size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smolora.common.text.chunk import chunk, chunk_texts, count_words
from tests.unit.client.text.kit import TEXTS, WORDS


@given(TEXTS, st.integers(max_value=0))
def test_a_size_of_zero_or_less_changes_nothing(text: str, size: int) -> None:
    assert list(chunk(text, size)) == [text]


@given(WORDS, st.sampled_from([" ", "  ", "\n", "\t \u3000", "\x85\x1c"]), st.integers(1, 50))
def test_words_are_kept_in_order_and_every_piece_but_the_last_is_full(words: list[str], space: str, size: int) -> None:
    pieces = list(chunk(space.join(words), size))
    assert " ".join(pieces).split() == words
    assert [len(piece.split(" ")) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert len(pieces) == -(-len(words) // size)


@given(st.text(), st.integers(1, 5))
def test_a_word_is_what_split_says(text: str, size: int) -> None:
    assert " ".join(chunk(text, size)) == " ".join(text.split())
    assert count_words(text) == len(text.split())


def test_pieces_never_hold_words_of_two_texts() -> None:
    assert list(chunk_texts(["a b c", "d", ""], 2)) == ["a b", "c", "d"]
    assert list(chunk_texts(["a  b", ""])) == ["a  b", ""]
