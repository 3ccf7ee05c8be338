"""What a refused number is said to be allowed to be."""

from __future__ import annotations

import pytest

from smolorad.domain import Sampling
from smolorad.domain.bounds import Bounds, check
from smolorad.errors import InvalidRequest


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        (Bounds(least=0, most=2**63 - 1), "at least 0 and at most 9,223,372,036,854,775,807"),
        (Bounds(least=10**15 + 1), "at least 1,000,000,000,000,001"),
        (Bounds(above=0.0, most=1.0), "above 0 and at most 1"),
        (Bounds(least=-2.0, below=0.5), "at least -2 and below 0.5"),
    ],
)
def test_bounds_are_said_exactly(bounds: Bounds, said: str) -> None:
    assert sorted(str(bounds).split(" and ")) == sorted(said.split(" and "))


def test_a_seed_out_of_bounds_is_told_the_last_one() -> None:
    with pytest.raises(InvalidRequest, match="at least 0 and at most 9,223,372,036,854,775,807"):
        check(Sampling(seed=-1))
