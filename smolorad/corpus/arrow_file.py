"""Rows in an Arrow stream file, the way `datasets` keeps them: written and read in batches."""

from __future__ import annotations

import json
from array import array
from collections import Counter
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
_TURN = [pa.field("role", pa.string()), pa.field("content", pa.string())]
TURNS = pa.list_(pa.struct(_TURN))
# Where some turn of a dataset is not trained, each has a weight: 1, or 0 for such a one.
WEIGHTED = pa.list_(pa.struct([*_TURN, pa.field("weight", pa.int64())]))
# `datasets` finds a row by bisection over batches; one as large as this is read in well under a millisecond.
_BATCH_ROWS = 1000
_BATCH_CHARACTERS = 4 * 2**20
_STRING = {"dtype": "string", "_type": "Value"}
_TURN_FEATURE = {"role": _STRING, "content": _STRING}
_FEATURE_OF = {
    pa.string(): _STRING,
    TURNS: {"feature": _TURN_FEATURE, "_type": "List"},
    WEIGHTED: {"feature": _TURN_FEATURE | {"weight": {"dtype": "int64", "_type": "Value"}}, "_type": "List"},
}


def schema_of(sample: Sample) -> pa.Schema:
    """The columns of the rows of a draft, by one of them: turns have weights in it."""
    types = [pa.string() if isinstance(value, str) else WEIGHTED for value in sample.values]
    return pa.schema([pa.field(name, kind) for name, kind in zip(COLUMNS[sample.shape], types, strict=True)])


def features(schema: pa.Schema) -> dict[str, Any]:
    """The columns in the words of `datasets`."""
    return {field.name: _FEATURE_OF[field.type] for field in schema}


def described(schema: pa.Schema) -> pa.Schema:
    """The columns with the note that `datasets` reads them by."""
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features(schema)}})})


def without_weights(schema: pa.Schema) -> pa.Schema:
    """The same columns, of turns that are all trained."""
    return pa.schema([field.with_type(TURNS) if field.type == WEIGHTED else field for field in schema])


class DraftWriter:
    """Appends rows, with where they came from, to a new file; a context manager that completes it.

    The first row settles the columns. OSError where the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[Sample] = []
        self._characters = 0
        self._stream: Any = None
        self._drafted: pa.Schema | None = None
        self._weighted = False
        self.files: dict[tuple[str, str], int] = {}  # the number of each file, and split that its rows are named as
        self.splits: Counter[str] = Counter()  # rows by that split

    def __enter__(self) -> DraftWriter:
        self._file = self._path.open("wb")
        return self

    @property
    def schema(self) -> pa.Schema | None:
        """The columns of the dataset; None where there are no rows."""
        return self._drafted if self._drafted is None or self._weighted else without_weights(self._drafted)

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
            self._drafted = schema_of(self._pending[0])
            whole = self._drafted.append(pa.field(FILE, pa.int32())).append(pa.field(LINE, pa.int64()))
            self._stream = pa.ipc.new_stream(self._file, whole)
            self._whole = whole
        columns = [self._column(column) for column in zip(*(sample.values for sample in self._pending), strict=True)]
        files = self.files
        numbers = array("i", [files.setdefault((sample.file, sample.split), len(files)) for sample in self._pending])
        self.splits.update([sample.split for sample in self._pending])
        lines = array("q", [sample.line for sample in self._pending])
        columns += [numbered(numbers, pa.int32()), numbered(lines, pa.int64())]
        self._stream.write_batch(pa.record_batch(columns, schema=self._whole))
        self._pending.clear()
        self._characters = 0

    def _column(self, values: Sequence[Value]) -> pa.Array:
        if isinstance(values[0], str):
            return _strings(values)  # type: ignore[arg-type]
        rows: Sequence[Turns] = values  # type: ignore[assignment]
        turns = [turn for row in rows for turn in row]
        weights = array("q", [turn.trained for turn in turns])
        self._weighted = self._weighted or 0 in weights
        texts = pa.StructArray.from_arrays(
            [
                _strings([turn.role for turn in turns]),
                _strings([turn.content for turn in turns]),
                numbered(weights, pa.int64()),
            ],
            fields=list(WEIGHTED.value_type),
        )
        ends = numbered(array("i", accumulate(map(len, rows), initial=0)), pa.int32())
        return pa.ListArray.from_arrays(ends, texts).cast(WEIGHTED)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._flush()
                if self._stream is not None:
                    self._stream.close()


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
            for batch in stream:
                batch.validate(full=True)  # Arrow believes the places in a file
                yield batch
    except (OSError, pa.ArrowException) as error:
        raise Damaged(f"{path} is damaged; prepare the dataset again.") from error


def rows_of(batch: pa.RecordBatch, names: Iterable[str]) -> list[tuple[Value, ...]]:
    """The values of some columns, row by row; turns as tuples of turns."""
    return list(zip(*(_values(batch.column(name)) for name in names), strict=True))


def _values(column: pa.Array) -> list[Value]:
    found: list[Any] = column.to_pylist()
    if column.type == pa.string():
        return found
    return [tuple([Turn(turn["role"], turn["content"], turn.get("weight") != 0) for turn in row]) for row in found]


def shape_of(schema: pa.Schema) -> Shape:
    """What rows of these columns are."""
    return next(shape for shape, names in COLUMNS.items() if set(names) <= set(schema.names))
