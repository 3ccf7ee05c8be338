"""Parquet and Arrow files, read in batches, of the columns that are needed; a line is a row, from 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smolora.common.problems import RowProblem
from smolora.common.text.rows import BadFile, Record, Records, unreadable
from smolorad.corpus.unfit import Unfit
from smolorad.errors import first_line

_BATCH_ROWS, _BATCH_BYTES = 1000, 8 * 2**20
# What pyarrow raises where Python has no such value: a time beyond the year 9999, or in a zone that is not known here.
_NO_VALUE = (pa.ArrowException, ArithmeticError, ValueError, LookupError, TypeError)

Select = Callable[[Sequence[str]], Sequence[str]]  # of a table's columns those that are read; raises Unfit


def read_parquet(path: Path, file: str, select: Select) -> Records:
    """The rows of a Parquet file. Raises BadFile where `select` says why its columns will not do, and for a damaged file."""
    with _damage_told(file, "Parquet"), pq.ParquetFile(path, memory_map=True) as table:
        columns = _selected(table.schema_arrow.names, file, select)
        batches = table.iter_batches(_rows_at_once(*_size(table, columns)), columns=columns)
        yield from _records(batches, columns, file)


def read_arrow(path: Path, file: str, select: Select) -> Records:
    """The rows of an Arrow file or stream; raises as `read_parquet`."""
    with _damage_told(file, "Arrow"), pa.memory_map(str(path)) as source:
        try:
            schema, opened = pa.ipc.open_file(source).schema, pa.ipc.open_file
        except pa.ArrowInvalid:
            source.seek(0)
            schema, opened = pa.ipc.open_stream(source).schema, pa.ipc.open_stream
        columns = _selected(schema.names, file, select)
        source.seek(0)
        # What is not needed is not unpacked.
        only = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
        table = opened(source, options=only)
        if opened is pa.ipc.open_file:
            batches: Iterator[pa.RecordBatch] = (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            batches = iter(table)
        yield from _records(batches, columns, file)


def rows_of(batch: pa.RecordBatch | pa.Table, file: str, first: int) -> Records:
    """The rows of a batch, numbered from `first` on; one with a value that cannot be read is a problem."""
    try:
        columns = [(name, column.to_pylist()) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    except _NO_VALUE:
        for at in range(batch.num_rows):
            yield _row(batch.slice(at, 1), file, first + at)
        return
    names = [name for name, _ in columns]
    for number, values in enumerate(zip(*(values for _, values in columns), strict=True), first):
        yield Record(dict(zip(names, values, strict=True)), file, number)


def parts_of(batch: pa.RecordBatch | pa.Table) -> Iterator[pa.RecordBatch | pa.Table]:
    """A batch in parts that are in memory at a time."""
    rows = _rows_at_once(batch.num_rows, batch.nbytes)
    return (batch.slice(begin, rows) for begin in range(0, batch.num_rows, rows))


def _row(row: pa.RecordBatch | pa.Table, file: str, number: int) -> Record | RowProblem:
    fields: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            fields[name] = column.to_pylist()[0]
        except UnicodeDecodeError as error:
            what = f"is not UTF-8: it has the byte 0x{error.object[error.start]:02x}; write the table again from text in UTF-8"
            return unreadable(file, number, what, error.object.decode(errors="replace"))
        except _NO_VALUE as error:
            what = (
                f"has a value in {name!r} that cannot be read ({first_line(error)}); write it as text, or leave the column out"
            )
            return RowProblem(file, number, what)
    return Record(fields, file, number)


def _selected(names: Sequence[str], file: str, select: Select) -> list[str]:
    try:
        return list(select(names))
    except Unfit as unfit:
        raise BadFile(file, 0, str(unfit)) from unfit


@contextmanager
def _damage_told(file: str, form: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; Arrow's own have no number
            raise
        raise BadFile(file, 0, f"is not {form} that can be read ({first_line(error)}); write it again") from error


def _size(table: pq.ParquetFile, columns: Sequence[str]) -> tuple[int, int]:
    """Rows and bytes of the group whose rows are longest, in these columns."""
    metadata, found = table.metadata, (0, 0)
    read = [
        at for at in range(metadata.num_columns)
        if any(_is_of(metadata.schema.column(at).path, name) for name in columns)
    ]  # fmt: skip
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = sum(group.column(at).total_uncompressed_size for at in read)
        if group.num_rows and size * max(found[0], 1) >= found[1] * group.num_rows:
            found = group.num_rows, size
    return found


def _is_of(path: str, column: str) -> bool:
    """Whether a path within a Parquet file is a column, or a part of it."""
    return path == column or path.startswith(f"{column}.")


def _rows_at_once(rows: int, size: int) -> int:
    """How many rows to keep in memory at a time, by their number and their bytes."""
    return max(1, min(_BATCH_ROWS, rows * _BATCH_BYTES // (size + 1)))


def _records(batches: Iterator[pa.RecordBatch], columns: Sequence[str], file: str) -> Records:
    number = 1
    for batch in batches:
        # A path such as `text.raw` is read with `text`.
        for part in parts_of(batch.select(columns)):
            yield from rows_of(part, file, number)
            number += part.num_rows
