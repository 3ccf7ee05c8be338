"""Draws the held-out rows where rows share prompts: whole groups of one prompt, as far as they fit."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import pyarrow as pa

from smolorad.corpus.arrow_file import numbered
from smolorad.corpus.split import held_out, held_out_rows

_DIGEST_BYTES = 8


class Prompts:
    """The prompts of rows in their order, eight bytes each."""

    def __init__(self) -> None:
        self.digests = array("Q")

    def add(self, prompt: str) -> None:
        """One more row."""
        self.digests.append(int.from_bytes(blake2b(prompt.encode(), digest_size=_DIGEST_BYTES).digest(), "little"))


@dataclass(frozen=True, slots=True)
class Draw:
    """By row whether it is held out; how many groups there are, and of the largest one how many rows and the first."""

    held: bytes
    groups: int
    largest: int
    first_of_largest: int
    short: bool  # whether whole groups are less than half of what was asked for


def draw(prompts: Prompts, share: float, seed: int, *, strict: bool) -> Draw:
    """Draws the share of all rows, at least one and never all.

    Groups of one prompt are held out whole, those of the rows that are drawn first, as long as they fit. Where so few fit that
    less than half of the share is reached, a group that does not quite fit is taken, or else rows of the largest group stand in
    for the rest, unless `strict` is asked for.
    """
    rows = len(prompts.digests)
    encoded = numbered(prompts.digests, pa.uint64()).dictionary_encode()
    group_of = array("i", encoded.indices.buffers()[1].to_pybytes()[: 4 * rows])
    counts = array("q", [0]) * len(encoded.dictionary)
    for group in group_of:
        counts[group] += 1
    largest = max(range(len(counts)), key=counts.__getitem__)
    wanted = left = held_out_rows(rows, share)
    taken = bytearray(len(counts))
    for group in _in_order(group_of, len(counts), share, seed):
        if not left:
            break
        if counts[group] <= left and not taken[group]:
            taken[group] = True
            left -= counts[group]
    if 2 * left > wanted and len(counts) > 1:
        smallest = min((group for group in range(len(counts)) if not taken[group]), key=counts.__getitem__)
        # No more than a half is ever held out, and unasked no more than twice the share.
        half = max(rows // 2, wanted)
        if wanted - left + counts[smallest] <= (half if strict else min(half, 2 * wanted)):
            taken[smallest] = True
            left -= counts[smallest]
    held = bytearray(taken[group] for group in group_of)
    short = 2 * left > wanted
    if short and not strict:
        own = [at for at, group in enumerate(group_of) if group == largest]
        chosen = random.Random(seed)
        # One row of the group stays for training, so that there is one.
        for at in sorted(own, key=lambda _: chosen.random())[: min(left, len(own) - 1)]:
            held[at] = True
    return Draw(bytes(held), len(counts), counts[largest], group_of.index(largest), short)


def _in_order(group_of: array[int], groups: int, share: float, seed: int) -> Iterator[int]:
    """Groups in the order in which they are tried: those of the rows that are drawn, then the others, shuffled."""
    for group, chosen in zip(group_of, held_out(len(group_of), share, seed), strict=True):
        if chosen:
            yield group
    shuffled = random.Random(seed)
    yield from sorted(range(groups), key=lambda _: shuffled.random())
