"""Which rows are held out for evaluation."""

from __future__ import annotations

import random
from collections.abc import Iterator


def held_out_rows(rows: int, share: float) -> int:
    """How many of `rows` are held out: their share, rounded half up, at least one; but one row at least stays for training.

    A share of 0 holds nothing out.
    """
    if share <= 0 or rows < 2:
        return 0
    return min(max(int(rows * share + 0.5), 1), rows - 1)


def held_out(rows: int, share: float, seed: int) -> Iterator[bool]:
    """For each row in turn whether it is held out: exactly `held_out_rows`, each choice equally likely.

    Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S) takes no memory. `Random.random` is the
    one method whose numbers Python promises to keep for a seed, so a seed means the same rows everywhere.
    """
    draw = random.Random(seed).random
    wanted = held_out_rows(rows, share)
    for left in range(rows, 0, -1):
        chosen = left * draw() < wanted
        wanted -= chosen
        yield chosen
