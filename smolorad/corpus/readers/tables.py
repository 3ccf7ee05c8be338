"""Parquet and Arrow files, read in batches; a line is a row, from 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smolora._models import RowProblem
from smolora._text.rows import BadFile, Record, Records, unreadable
from smolorad.corpus.foreign import first_line

_BATCH_ROWS, _BATCH_BYTES = 1000, 8 * 2**20


def read_parquet(path: Path, file: str, check: Callable[[Sequence[str]], str | None]) -> Records:
    """The rows of a Parquet file. `check` tells why columns will not do; raises BadFile for that, and for a damaged file."""
    with _damage_told(file, "Parquet"), pq.ParquetFile(path, memory_map=True) as table:
        yield from _records(table.schema_arrow, table.iter_batches(_rows_at_once(*_size(table))), file, check)


def read_arrow(path: Path, file: str, check: Callable[[Sequence[str]], str | None]) -> Records:
    """The rows of an Arrow file or stream; raises as `read_parquet`."""
    with _damage_told(file, "Arrow"), pa.memory_map(str(path)) as source:
        try:
            table = pa.ipc.open_file(source)
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_stream(source)
            batches = iter(table)
        yield from _records(table.schema, batches, file, check)


def rows_of(batch: pa.RecordBatch | pa.Table, file: str, first: int) -> Records:
    """The rows of a batch, numbered from `first` on; one whose text is not UTF-8 is a problem."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        for at in range(batch.num_rows):
            yield _row(batch.slice(at, 1), file, first + at)
        return
    for number, fields in enumerate(rows, first):
        yield Record(fields, file, number)


def _row(row: pa.RecordBatch | pa.Table, file: str, number: int) -> Record | RowProblem:
    try:
        return Record(row.to_pylist()[0], file, number)
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: it holds the byte 0x{error.object[error.start]:02x}; write the table again from text in UTF-8"
        return unreadable(file, number, what, error.object.decode(errors="replace"))


@contextmanager
def _damage_told(file: str, form: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; Arrow's own have no number
            raise
        raise BadFile(file, 0, f"is not {form} that can be read ({first_line(error)}); write it again") from error


def _size(table: pq.ParquetFile) -> tuple[int, int]:
    """Rows and bytes of the group whose rows are longest."""
    groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
    return max(
        ((group.num_rows, group.total_byte_size) for group in groups if group.num_rows),
        key=lambda size: size[1] / size[0],
        default=(0, 0),
    )


def _rows_at_once(rows: int, size: int) -> int:
    """How many rows are held at a time, of so many that take so many bytes."""
    return max(1, min(_BATCH_ROWS, rows * _BATCH_BYTES // (size + 1)))


def _records(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch], file: str, check: Callable[[Sequence[str]], str | None]
) -> Records:
    if (why := check(schema.names)) is not None:
        raise BadFile(file, 0, why)
    number = 1
    for batch in batches:
        rows = _rows_at_once(batch.num_rows, batch.nbytes)
        for begin in range(0, batch.num_rows, rows):
            part = batch.slice(begin, rows)
            yield from rows_of(part, file, number)
            number += part.num_rows
