"""Parquet and Arrow files, read in batches; a line is a row, from 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smolora._text.rows import BadFile, Record, Records
from smolorad.corpus.foreign import first_line

_BATCH_ROWS = 1000


def read_parquet(path: Path, file: str, check: Callable[[Sequence[str]], str | None]) -> Records:
    """The rows of a Parquet file. `check` tells why columns will not do; raises BadFile for that, and for a damaged file."""
    try:
        with pq.ParquetFile(path, memory_map=True) as table:
            yield from _records(table.schema_arrow, table.iter_batches(_BATCH_ROWS), file, check)
    except pa.ArrowException as error:
        raise BadFile(file, 0, f"is not Parquet that can be read ({first_line(error)}); write it again") from error


def read_arrow(path: Path, file: str, check: Callable[[Sequence[str]], str | None]) -> Records:
    """The rows of an Arrow file or stream; raises as `read_parquet`."""
    try:
        with pa.memory_map(str(path)) as source:
            try:
                table = pa.ipc.open_file(source)
                batches = (table.get_batch(number) for number in range(table.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                table = pa.ipc.open_stream(source)
                batches = iter(table)
            yield from _records(table.schema, batches, file, check)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; Arrow's own have no number
            raise
        raise BadFile(file, 0, f"is not Arrow that can be read ({first_line(error)}); write it again") from error


def _records(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch], file: str, check: Callable[[Sequence[str]], str | None]
) -> Records:
    if (why := check(schema.names)) is not None:
        raise BadFile(file, 0, why)
    number = 0
    for batch in batches:
        for begin in range(0, batch.num_rows, _BATCH_ROWS):
            for fields in batch.slice(begin, _BATCH_ROWS).to_pylist():
                number += 1
                yield Record(fields, file, number)
