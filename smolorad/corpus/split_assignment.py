"""Which rows of a draft go to which split."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TypeAlias

from smolorad.corpus.arrow_file import DraftWriter
from smolorad.corpus.groups import Draw, Prompts, draw
from smolorad.corpus.named_splits import VALIDATION
from smolorad.corpus.split import OverlappingPieces, held_out, held_out_rows, reach
from smolorad.domain import PrepareSpec

Place = tuple[int, int]  # the number of a file, and a line
# Numbers of rows: those that are trained on, and those held out.
Taken: TypeAlias = "tuple[array[int], array[int]]"


class Sides:
    """Says row by row, in the draft's order, whether it is held out; `wanted` is about how many are."""

    def __init__(self, side: Callable[[Place], bool | None], wanted: int, draw: Draw | None = None) -> None:
        self._side = side
        self.wanted = wanted
        self.draw = draw

    def place(self, places: Sequence[Place]) -> Taken:
        """The numbers of the rows of the next batch that are trained on, and of those held out.

        One that has a part in common with the other side is in neither.
        """
        taken = array("q"), array("q")
        for at, place in enumerate(places):
            if (held := self._side(place)) is not None:
                taken[held].append(at)
        return taken


def sides_of(spec: PrepareSpec, rows: int, prompts: Prompts | None, draft: DraftWriter) -> Sides:
    """The sides of a draft's rows: those that are named as validation are held out, or else as many as are drawn."""
    if named := draft.splits[VALIDATION]:
        held = [split == VALIDATION for _, split in draft.files]
        return Sides(lambda place: held[place[0]], named)
    wanted = held_out_rows(rows, spec.validation)
    if not wanted:
        return Sides(lambda place: False, 0)
    if prompts is not None and prompts.digests:
        drawn = draw(prompts, spec.validation, spec.seed, strict=spec.strict_groups)
        flags = iter(drawn.held)
        return Sides(lambda place: bool(next(flags)), sum(drawn.held), drawn)
    if near := reach(spec.chunk_size, spec.chunk_overlap):
        return Sides(OverlappingPieces(rows, spec.validation, spec.seed, near).side, wanted)
    choices = held_out(rows, spec.validation, spec.seed)
    return Sides(lambda place: next(choices), wanted)
