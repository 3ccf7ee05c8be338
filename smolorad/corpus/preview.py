"""Some rows of a prepared dataset, as training will read them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from smolorad.corpus.arrow import read_batches, texts
from smolorad.corpus.write import data_file
from smolorad.errors import NotFound

_MOST_CHARACTERS = 4096


def preview(dataset: Path, split: str, offset: int, limit: int) -> tuple[list[str], int]:
    """At most `limit` texts from row `offset` on, each cut at 4,096 characters, and how many rows the split has.

    Raises NotFound where the dataset has no such split, Damaged where its file is torn.
    """
    path = data_file(dataset, split)
    if not path.is_file():
        raise NotFound(f"The dataset has no split {split}; it was prepared without one, so read the split train.")
    found: list[str] = []
    rows = 0
    for batch in read_batches(path):
        found += texts(_part(batch, offset - rows, limit - len(found)))
        rows += batch.num_rows
    return [text[:_MOST_CHARACTERS] for text in found], rows


def _part(batch: pa.RecordBatch, begin: int, most: int) -> pa.RecordBatch:
    """The rows of a batch from `begin` on, which may lie before or behind it; `most` of them."""
    return batch.slice(min(max(begin, 0), batch.num_rows), most)
