"""Reads one file: its rows as samples, with problems in the place of rows that cannot be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolora.common.problems import ProblemKind, RowProblem
from smolora.common.text.compressed import bare_name, open_binary
from smolora.common.text.csv import read_table
from smolora.common.text.csv_form import TAB
from smolora.common.text.json_array import read_json
from smolora.common.text.jsonl import read_objects
from smolora.common.text.rows import BadFile, Records, Row, Rows
from smolora.common.text.txt import LINE, PARAGRAPH, read_markdown, read_txt
from smolorad.corpus.file_types import Source
from smolorad.corpus.report import Host
from smolorad.corpus.shaper import Shaper
from smolorad.corpus.shapes import Sample
from smolorad.corpus.watched_file import WatchedFile
from smolorad.domain import FileType, PrepareSpec
from smolorad.errors import BadData


def shaped(shaper: Shaper, records: Records) -> Iterator[Sample | RowProblem]:
    """The row of each record, or the problem with it."""
    row = shaper.shaped
    for record in records:
        yield record if isinstance(record, RowProblem) else row(record)


class FileReader:
    """Reads files as a spec says; `scratch` is a folder for what must be unpacked before it is read."""

    def __init__(self, spec: PrepareSpec, shaper: Shaper, scratch: Path, host: Host) -> None:
        self._host = host
        self._spec = spec
        self._shaper = shaper
        self._scratch = scratch

    def rows(self, path: Path, source: Source) -> Iterator[Sample | RowProblem]:
        """The rows of a file; one that cannot be read, or not to its end, is a problem as a row is.

        Raises BadData where it vanishes.
        """
        read = 0
        try:
            for row in self._file(path, source):
                read += 1
                yield row
        except BadFile as error:
            cut_short = read or source.file_type is FileType.JSON
            why = f"{error.why}; nothing behind it is read" if cut_short else error.why
            yield RowProblem(error.file, error.line, why, ProblemKind.ENCODING if "UTF" in why else ProblemKind.MALFORMED)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadData(f"{source.file} vanished while it was read; prepare the dataset again.") from error

    def _file(self, path: Path, source: Source) -> Iterator[Sample | RowProblem]:
        file, kind = source.file, source.file_type
        if kind in (FileType.TXT, FileType.MARKDOWN):
            return self._texts(path, file, kind)
        return shaped(self._shaper, self._records(path, file, kind))

    def _texts(self, path: Path, file: str, kind: FileType) -> Iterator[Sample | RowProblem]:
        unit, watched = self._spec.text_unit, self._watched(path)
        rows: Rows = (
            read_txt(watched, file, unit or LINE) if kind is FileType.TXT else read_markdown(watched, file, unit or PARAGRAPH)
        )
        for row in rows:
            yield self._shaper.text(row) if isinstance(row, Row) else row

    def _records(self, path: Path, file: str, kind: FileType) -> Records:
        shaper = self._shaper
        match kind:
            case FileType.JSONL:
                yield from read_objects(self._watched(path), file)
            case FileType.JSON:
                yield from read_json(self._watched(path), file)
            case FileType.CSV:
                yield from read_table(self._watched(path), file, shaper.wanted(), self._spec.delimiter, shaper.unfit_columns)
            case FileType.TSV:
                yield from read_table(self._watched(path), file, shaper.wanted(), TAB, shaper.unfit_columns)
            case _:
                # Imported where it is used: see the package's rule about heavy imports.
                from smolorad.corpus.readers.tables import read_arrow, read_parquet

                with self._unpacked(path, file) as plain:
                    read = read_parquet if kind is FileType.PARQUET else read_arrow
                    yield from read(plain, file, shaper.select)

    def _watched(self, path: Path) -> WatchedFile:
        return WatchedFile(path, self._host)

    @contextmanager
    def _unpacked(self, path: Path, file: str) -> Iterator[Path]:
        """The file itself, or a copy without its compression: a table is not read from its beginning to its end."""
        if bare_name(path.name) == path.name:
            yield path
            return
        plain = self._scratch / f"unpacked-{os.getpid()}"
        try:
            with open_binary(self._watched(path), file) as packed, plain.open("wb") as target:
                shutil.copyfileobj(packed, target)
            yield plain
        finally:
            plain.unlink(missing_ok=True)
