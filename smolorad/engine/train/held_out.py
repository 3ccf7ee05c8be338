"""The held-out rows of one process, among several that measure them together: every row counts in one process, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class HeldOut:
    """The batches that one process measures, in place of a DataLoader.

    All processes have equally many batches, each of as many rows in one as in the others, since TRL gathers numbers from all of
    them after each. What does not divide evenly is measured in batches of one row, and a process without rows left measures a
    row that does not count.
    """

    dataset: Any  # datasets.Dataset
    collate: Callable[[Sequence[Any]], Any]
    batch_rows: int  # at most
    process: int = 0
    processes: int = 1
    counts: bool = True  # whether the last batch does

    def __len__(self) -> int:
        return sum(1 for _ in self._places())

    def __iter__(self) -> Iterator[Any]:
        for places, counts in self._places():
            self.counts = counts
            yield self.collate(self.dataset.__getitems__(places))

    def _places(self) -> Iterator[tuple[list[int], bool]]:
        """Of each batch, its rows, and whether they count."""
        rows, begin = len(self.dataset), 0
        while begin < rows:
            size = min(self.batch_rows, (rows - begin) // self.processes) or 1
            first = begin + self.process * size
            yield [place % rows for place in range(first, first + size)], first < rows
            begin += size * self.processes
