"""Texts in an Arrow stream file, the way `datasets` keeps them: written and read in batches, whatever their number."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from smolorad.errors import Damaged

TEXT = "text"
FEATURES = {TEXT: {"dtype": "string", "_type": "Value"}}
_METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
_SCHEMA = pa.schema([pa.field(TEXT, pa.string())], metadata=_METADATA)
# `datasets` finds a row by bisection over batches; one as large as this is read in well under a millisecond.
_BATCH_ROWS = 1000
_BATCH_CHARACTERS = 4 * 2**20


class TextWriter:
    """Appends texts to a new file; a context manager that completes it. OSError where the disk fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[str] = []
        self._characters = 0
        self.rows = 0

    def __enter__(self) -> TextWriter:
        self._file = self._path.open("wb")
        self._stream = pa.ipc.new_stream(self._file, _SCHEMA)
        return self

    def append(self, text: str) -> None:
        """Adds one row."""
        self._pending.append(text)
        self._characters += len(text)
        self.rows += 1
        if len(self._pending) >= _BATCH_ROWS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        self._stream.write_batch(pa.record_batch([_array(self._pending)], schema=_SCHEMA))
        self._pending.clear()
        self._characters = 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._flush()
                self._stream.close()


def _array(texts: list[str]) -> pa.StringArray:
    """As `pa.array(texts)`, which would import pandas to look whether these are pandas' strings."""
    encoded = [text.encode() for text in texts]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a file, memory-mapped: what is not looked at is not read. Raises Damaged where it is torn."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            yield from stream
    except (OSError, pa.ArrowException) as error:
        raise Damaged(f"{path} is damaged; prepare the dataset again.") from error


def texts(batch: pa.RecordBatch) -> list[str]:
    """The texts of a batch."""
    found: list[str] = batch.column(TEXT).to_pylist()
    return found
