"""The split has its exact size, is the same for a seed, and always leaves something to train on."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolorad.corpus.groups import Prompts, draw
from smolorad.corpus.split import OverlappingPieces, held_out, held_out_rows, reach

SHARES = st.floats(0, 0.5)
SEEDS = st.integers(0, 2**32 - 1)


@given(st.integers(0, 500), SHARES, SEEDS)
def test_the_count_is_exact_and_the_same_each_time(rows: int, share: float, seed: int) -> None:
    choices = list(held_out(rows, share, seed))
    assert len(choices) == rows
    assert sum(choices) == held_out_rows(rows, share)
    assert choices == list(held_out(rows, share, seed))


@given(st.integers(0, 10**12), SHARES)
def test_at_least_one_row_stays_for_training(rows: int, share: float) -> None:
    held = held_out_rows(rows, share)
    assert 0 <= held <= max(rows - 1, 0)
    assert (held > 0) == (share > 0 and rows > 1)


@pytest.mark.parametrize(
    ("rows", "share", "held"),
    [(100, 0.05, 5), (30832, 0.05, 1542), (30, 0.05, 2), (10, 0.05, 1), (2, 0.05, 1), (2, 0.5, 1), (1, 0.5, 0), (9, 0.0, 0)],
)
def test_the_share_is_rounded_half_up(rows: int, share: float, held: int) -> None:
    assert held_out_rows(rows, share) == held


def test_a_seed_means_the_same_rows_on_every_machine() -> None:
    assert [n for n, chosen in enumerate(held_out(100, 0.05, 42)) if chosen] == [1, 9, 12, 19, 89]
    assert [n for n, chosen in enumerate(held_out(100, 0.05, 43)) if chosen] == [0, 8, 49, 61, 74]


def test_every_row_is_equally_likely() -> None:
    counts = [sum(column) for column in zip(*(held_out(10, 0.3, seed) for seed in range(2000)), strict=True)]
    assert all(abs(count - 600) < 100 for count in counts), "600 expected, 20 the standard deviation"


# Pieces that overlap

TEXTS = st.lists(st.integers(1, 60), min_size=1, max_size=12)  # pieces of each


def sides_of(texts: list[int], share: float, seed: int, near: int) -> list[tuple[int, int, bool | None]]:
    """Of each piece its text, its number within it, and its side."""
    pieces = OverlappingPieces(sum(texts), share, seed, near)
    return [(text, at, pieces.side(text)) for text, count in enumerate(texts) for at in range(count)]


@given(TEXTS, SHARES, SEEDS, st.integers(1, 3))
def test_pieces_of_both_sides_never_overlap(texts: list[int], share: float, seed: int, near: int) -> None:
    found = sides_of(texts, share, seed, near)
    wanted = held_out_rows(sum(texts), share)
    held = {(text, at) for text, at, side in found if side}
    trained = {(text, at) for text, at, side in found if side is False}
    assert not any((text, at + step) in trained for text, at in held for step in range(-near, near + 1))
    assert trained
    assert (held != set()) == (wanted > 0 and (len(texts) > 1 or sum(texts) > near + 1))
    assert len(held) <= wanted
    assert len(held) + len(trained) == len(found) or held, "none is lost in vain"
    assert found == sides_of(texts, share, seed, near)


@given(SEEDS)
def test_one_long_text_loses_little(seed: int) -> None:
    sides = [side for *_, side in sides_of([1000], 0.05, seed, 1)]
    assert sides.count(True) == 50
    assert sides.count(None) <= 16


@given(SEEDS)
def test_of_many_texts_whole_ones_are_held_out(seed: int) -> None:
    sides = [side for *_, side in sides_of([5] * 200, 0.05, seed, 1)]
    assert sides.count(True) in (49, 50)
    assert sides.count(None) <= 2, "at the end, where it must be as many as are wanted"


@pytest.mark.parametrize(("size", "overlap", "near"), [(512, 0, 0), (512, 64, 1), (512, 256, 2), (8, 6, 4), (8, 7, 8)])
def test_how_far_a_piece_reaches(size: int, overlap: int, near: int) -> None:
    assert reach(size, overlap) == near


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=60),
    st.sampled_from([0.01, 0.05, 0.3, 0.5]),
    st.integers(0, 3),
    st.booleans(),
)
@example([0] * 2 + [1] * 11, 0.5, 0, False)
def test_of_groups_of_any_size_no_more_than_half_is_held_out(groups: list[int], share: float, seed: int, strict: bool) -> None:
    prompts = Prompts()
    for group in groups:
        prompts.add(str(group))
    rows, held = len(groups), sum(draw(prompts, share, seed, strict=strict).held)
    assert held <= max(rows // 2, held_out_rows(rows, share)) < rows
    assert strict or held >= 1
