"""Rows in an Arrow stream file, the way `datasets` keeps them: written and read in batches, whatever their number."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from smolorad.chat.turns import Turn, Turns, Value
from smolorad.corpus.shapes import COLUMNS, Sample
from smolorad.domain import Shape
from smolorad.errors import Damaged

FILE, LINE = "file", "line"  # where a row of a draft came from: the number of its file, and its line
TURNS = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
# `datasets` finds a row by bisection over batches; one as large as this is read in well under a millisecond.
_BATCH_ROWS = 1000
_BATCH_CHARACTERS = 4 * 2**20
_STRING = {"dtype": "string", "_type": "Value"}
_FEATURE_OF = {pa.string(): _STRING, TURNS: {"feature": {"role": _STRING, "content": _STRING}, "_type": "List"}}


def schema_of(sample: Sample) -> pa.Schema:
    """The columns of the rows of a dataset, told by one of them."""
    types = [pa.string() if isinstance(value, str) else TURNS for value in sample.values]
    return pa.schema([pa.field(name, kind) for name, kind in zip(COLUMNS[sample.shape], types, strict=True)])


def features(schema: pa.Schema) -> dict[str, Any]:
    """The columns in the words of `datasets`."""
    return {field.name: _FEATURE_OF[field.type] for field in schema}


def described(schema: pa.Schema) -> pa.Schema:
    """The columns with the note that `datasets` reads them by."""
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features(schema)}})})


class DraftWriter:
    """Appends rows, with where they came from, to a new file; a context manager that completes it.

    The first row settles the columns. OSError where the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[Sample] = []
        self._characters = 0
        self._stream: Any = None
        self.schema: pa.Schema | None = None
        self.files: dict[str, int] = {}

    def __enter__(self) -> DraftWriter:
        self._file = self._path.open("wb")
        return self

    def append(self, sample: Sample) -> None:
        """Adds one row."""
        self._pending.append(sample)
        self._characters += sample.characters()
        if len(self._pending) >= _BATCH_ROWS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._stream is None:
            self.schema = schema_of(self._pending[0])
            whole = self.schema.append(pa.field(FILE, pa.int32())).append(pa.field(LINE, pa.int64()))
            self._stream = pa.ipc.new_stream(self._file, whole)
            self._whole = whole
        columns = [_column(column) for column in zip(*(sample.values for sample in self._pending), strict=True)]
        numbers = array("i", [self.files.setdefault(sample.file, len(self.files)) for sample in self._pending])
        lines = array("q", [sample.line for sample in self._pending])
        columns += [numbered(numbers, pa.int32()), numbered(lines, pa.int64())]
        self._stream.write_batch(pa.record_batch(columns, schema=self._whole))
        self._pending.clear()
        self._characters = 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._flush()
                if self._stream is not None:
                    self._stream.close()


def _column(values: Sequence[Value]) -> pa.Array:
    if isinstance(values[0], str):
        return _strings(values)  # type: ignore[arg-type]
    rows: Sequence[Turns] = values  # type: ignore[assignment]
    turns = [turn for row in rows for turn in row]
    texts = pa.StructArray.from_arrays(
        [_strings([turn.role for turn in turns]), _strings([turn.content for turn in turns])], fields=list(TURNS.value_type)
    )
    ends = numbered(array("i", accumulate(map(len, rows), initial=0)), pa.int32())
    return pa.ListArray.from_arrays(ends, texts).cast(TURNS)


def _strings(texts: Sequence[str]) -> pa.StringArray:
    """As `pa.array(texts)`, which would import pandas to look whether these are pandas' strings."""
    encoded = [text.encode() for text in texts]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def numbered(values: array[int], kind: pa.DataType) -> pa.Array:
    """Whole numbers as a column, without a copy."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def read_batches(path: Path, *, mapped: bool = True) -> Iterator[pa.RecordBatch]:
    """The batches of a file. Raises Damaged where it is torn.

    Mapped, what is not looked at is not read; where all of it is read, that would count the whole file as the process's memory.
    """
    opened = pa.memory_map if mapped else pa.OSFile
    try:
        with opened(str(path)) as source, pa.ipc.open_stream(source) as stream:
            yield from stream
    except (OSError, pa.ArrowException) as error:
        raise Damaged(f"{path} is damaged; prepare the dataset again.") from error


def rows_of(batch: pa.RecordBatch, names: Iterable[str]) -> list[tuple[Value, ...]]:
    """The values of some columns, row by row; turns as tuples of role and content."""
    return list(zip(*(_values(batch.column(name)) for name in names), strict=True))


def _values(column: pa.Array) -> list[Value]:
    found: list[Any] = column.to_pylist()
    if column.type == pa.string():
        return found
    return [tuple(Turn(turn["role"], turn["content"]) for turn in row) for row in found]


def shape_of(schema: pa.Schema) -> Shape:
    """What rows of these columns are."""
    return next(shape for shape, names in COLUMNS.items() if set(names) <= set(schema.names))
