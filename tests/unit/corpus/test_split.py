"""The split has its exact size, is the same for a seed, and always leaves something to train on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.corpus.split import held_out, held_out_rows

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
