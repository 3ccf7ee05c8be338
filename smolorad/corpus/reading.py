"""Every row of every source in turn, as a sample or as the problem that stands in its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from smolora._models import ProblemKind, RowProblem
from smolora._text.compressed import bare_name, open_binary
from smolora._text.csv import TAB, read_table
from smolora._text.json_array import read_json
from smolora._text.jsonl import read_objects
from smolora._text.rows import BadFile, Records, Row, Rows
from smolora._text.txt import LINE, PARAGRAPH, read_markdown, read_txt
from smolorad.corpus.infer import Source, Sources, infer
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.shapes import Sample, Shaper
from smolorad.domain import FileType, Note, PhaseProgress, PrepareSpec, Shape
from smolorad.errors import BadData

_NAMES_IN_NOTE = 12

Samples = Generator[Sample | RowProblem, None, None]


class Reader:
    """Reads what a spec names; `scratch` is a folder for files that must be unpacked before they are read."""

    def __init__(self, spec: PrepareSpec, tally: Tally, host: Host, scratch: Path) -> None:
        self._spec = spec
        self._tally = tally
        self._host = host
        self._scratch = scratch
        self._shaper = Shaper(spec.shape, spec.text_field, spec.columns)

    def samples(self, files: Path | None) -> Samples:
        """The rows of a folder of files, or else of the spec's hub dataset.

        A file that cannot be read, or not to its end, is a problem as a row is. Raises BadData where one vanishes.
        """
        yield from self._samples(files)
        if self._spec.chunk_size and self._shaper.shape not in (None, Shape.TEXT):
            self._host.tell(Note("Only rows of text are cut; --chunk-size changed nothing."))

    def _samples(self, files: Path | None) -> Iterator[Sample | RowProblem]:
        if files is None:
            yield from self._shaped(self._hub())
            return
        sources = infer(files, self._spec.file_type)
        if sources.left_out:
            self._host.tell(Note(_left_out(sources)))
        if sources.saved:
            yield from self._shaped(self._saved(sources.root))
            return
        for source in sources.files:
            self._tally.files += 1
            before = self._tally.read
            try:
                yield from self._file(sources.root / source.file, source)
            except BadFile as error:
                cut_short = self._tally.read > before or source.file_type is FileType.JSON
                why = f"{error.why}; nothing behind it is read" if cut_short else error.why
                yield RowProblem(error.file, error.line, why, ProblemKind.ENCODING if "UTF" in why else ProblemKind.MALFORMED)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise BadData(f"{source.file} vanished while it was read; prepare the dataset again.") from error

    def _file(self, path: Path, source: Source) -> Iterator[Sample | RowProblem]:
        file, kind = source.file, source.file_type
        if kind in (FileType.TXT, FileType.MARKDOWN):
            return self._texts(path, file, kind)
        return self._shaped(self._records(path, file, kind))

    def _texts(self, path: Path, file: str, kind: FileType) -> Iterator[Sample | RowProblem]:
        unit = self._spec.text_unit
        rows: Rows = (
            read_txt(path, file, unit or LINE) if kind is FileType.TXT else read_markdown(path, file, unit or PARAGRAPH)
        )
        for row in rows:
            yield self._shaper.text(row) if isinstance(row, Row) else row

    def _records(self, path: Path, file: str, kind: FileType) -> Records:
        shaper = self._shaper
        match kind:
            case FileType.JSONL:
                yield from read_objects(path, file)
            case FileType.JSON:
                yield from read_json(path, file)
            case FileType.CSV:
                yield from read_table(path, file, shaper.wanted(), self._spec.delimiter, shaper.unfit_columns)
            case FileType.TSV:
                yield from read_table(path, file, shaper.wanted(), TAB, shaper.unfit_columns)
            case _:
                # Imported where it is used: see the package's rule about heavy imports.
                from smolorad.corpus.readers.tables import read_arrow, read_parquet

                with self._unpacked(path, file) as plain:
                    read = read_parquet if kind is FileType.PARQUET else read_arrow
                    yield from read(plain, file, shaper.unfit_columns)

    @contextmanager
    def _unpacked(self, path: Path, file: str) -> Iterator[Path]:
        """The file itself, or a copy without its compression: a table is not read from its beginning to its end."""
        if bare_name(path.name) == path.name:
            yield path
            return
        plain = self._scratch / f"unpacked-{os.getpid()}"
        try:
            with open_binary(path, file) as packed, plain.open("wb") as target:
                shutil.copyfileobj(packed, target)
            yield plain
        finally:
            plain.unlink(missing_ok=True)

    def _shaped(self, records: Records) -> Iterator[Sample | RowProblem]:
        shaped = self._shaper.shaped
        for record in records:
            yield record if isinstance(record, RowProblem) else shaped(record)

    def _saved(self, root: Path) -> Records:
        from smolorad.corpus.readers.saved import open_saved, read_dataset

        dataset = open_saved(root, self._host.tell)
        self._tally.files += len(dataset.cache_files)
        return read_dataset(dataset, str(dataset.split or "train"), self._shaper.unfit_columns)

    def _hub(self) -> Records:
        from smolorad.corpus.readers.hub import open_hub
        from smolorad.corpus.readers.saved import read_dataset

        assert self._spec.hub is not None
        self._host.tell(PhaseProgress("download"))
        dataset = open_hub(self._spec.hub, self._host.tell)
        self._tally.files += len(dataset.cache_files)
        return read_dataset(dataset, f"{self._spec.hub.repo_id}/{self._spec.hub.split}", self._shaper.unfit_columns)


def _left_out(sources: Sources) -> str:
    named = ", ".join(sources.left_out[:_NAMES_IN_NOTE])
    more = len(sources.left_out) - _NAMES_IN_NOTE
    rest = f" and {more:,} more" if more > 0 else ""
    return f"Left out: {named}{rest}."
