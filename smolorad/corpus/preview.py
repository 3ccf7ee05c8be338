"""Some rows of a prepared dataset, as training will read them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from smolorad.chat.folder import parses_special
from smolorad.chat.turns import Value
from smolorad.corpus.arrow_file import read_batches, rows_of, shape_of
from smolorad.corpus.measure import ShownRow, shown_rows
from smolorad.corpus.shapes import COLUMNS
from smolorad.corpus.tokenizer import ModelText
from smolorad.corpus.write import data_file
from smolorad.domain import Preview, PreviewRow, RowSpan, Shape
from smolorad.errors import NotFound

MOST_CHARACTERS = 4096


def preview(dataset: Path, split: str, offset: int, limit: int, tokenizer: Path | None = None) -> Preview:
    """At most `limit` rows from `offset` on, each cut at 4,096 characters, and how many rows the split has.

    With a model's `tokenizer.json` conversations go through its chat template, and rows end as training ends them. Raises
    NotFound where the dataset has no such split, Damaged where its file is torn.
    """
    path = data_file(dataset, split)
    if not path.is_file():
        raise NotFound(f"The dataset has no split {split}; it was prepared without one, so read the split train.")
    found: list[tuple[Value, ...]] = []
    shape, total = Shape.TEXT, 0
    for batch in read_batches(path):
        shape = shape_of(batch.schema)
        found += rows_of(_part(batch, offset - total, limit - len(found)), COLUMNS[shape])
        total += batch.num_rows
    model = None if tokenizer is None else ModelText(tokenizer)
    shown = shown_rows(model, shape, found, parse_special=parses_special(dataset))
    return Preview(tuple(map(plain_text, found)), total, tuple(PreviewRow(_spans(row)) for row in shown))


def plain_text(row: tuple[Value, ...]) -> str:
    """A row as text, without a template, cut."""
    parts = [value if isinstance(value, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in value) for value in row]
    return "\n".join(part[:MOST_CHARACTERS] for part in parts)[:MOST_CHARACTERS]


def _spans(row: ShownRow) -> tuple[RowSpan, ...]:
    """The parts of a row by turns masked and scored, cut."""
    text = row.text[:MOST_CHARACTERS]
    parts = []
    at = 0
    for begin, end in row.spans:
        parts += [RowSpan(text[at:begin], False), RowSpan(text[begin:end], True)]
        at = end
    parts.append(RowSpan(text[at:], False))
    return tuple(part for part in parts if part.text)


def _part(batch: pa.RecordBatch, begin: int, most: int) -> pa.RecordBatch:
    """The rows of a batch from `begin` on, which may lie before or behind it; `most` of them."""
    return batch.slice(min(max(begin, 0), batch.num_rows), most)
