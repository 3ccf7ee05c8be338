"""Every row of every source in turn, as a sample or as the problem that stands in its place."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from smolora.common.problems import RowProblem
from smolorad.corpus import notes
from smolorad.corpus.file_types import Source, infer
from smolorad.corpus.files import FileReader, shaped
from smolorad.corpus.named_splits import TEST, VALIDATION, NamedFiles, named_files
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.shaper import Shaper
from smolorad.corpus.shapes import Sample
from smolorad.domain import Note, PhaseProgress, PrepareSpec, Shape, Splits
from smolorad.errors import InvalidRequest

Samples = Generator[Sample | RowProblem, None, None]


class Reader:
    """Reads what a spec names; `scratch` is a folder for files that must be unpacked before they are read."""

    def __init__(self, spec: PrepareSpec, tally: Tally, host: Host, scratch: Path) -> None:
        self._spec = spec
        self._tally = tally
        self._host = host
        self._scratch = scratch
        self._by_split = spec.splits is Splits.NAMED
        self._shaper = self._new_shaper()
        self._held_rows = 0  # in files that are named as validation

    def _new_shaper(self) -> Shaper:
        spec = self._spec
        return Shaper(spec.shape, spec.text_field, spec.columns, by_split=self._by_split)

    def samples(self, files: Path | None) -> Samples:
        """The rows of a folder of files, or else of the spec's hub dataset; first those of files that are named as test data.

        A file that cannot be read, or not to its end, is a problem as a row is. Raises BadData where one vanishes,
        InvalidRequest where a field that the user named is in no row.
        """
        yield from self._hub() if files is None else self._files(files)
        if (why := self._shaper.never_seen()) is not None:
            raise InvalidRequest.field("columns", why)
        self._tell_what_was_not_used()

    def _tell_what_was_not_used(self) -> None:
        if (note := notes.of_rows_by_split(self._shaper.by_field)) is not None:
            self._host.emit(Note(note))
        if unused := list(self._shaper.unused):
            self._host.emit(Note(notes.of_unused(unused)))
        if self._spec.chunk_size and self._shaper.shape not in (None, Shape.TEXT):
            self._host.emit(Note("Only rows of text are cut; --chunk-size changed nothing."))

    def _files(self, files: Path) -> Iterator[Sample | RowProblem]:
        sources = infer(files, self._spec.file_type)
        if sources.left_out:
            self._host.emit(Note(f"Left out: {notes.listed(sources.left_out)}."))
        if sources.saved:
            yield from self._saved(sources.root)
            return
        prose = {source.file: source.is_prose for source in sources.files}
        named = named_files(prose) if self._by_split else NamedFiles()
        tests = [source for source in sources.files if named.splits.get(source.file) == TEST]
        reader = FileReader(self._spec, self._shaper, self._scratch, self._host)
        for source in tests:
            yield from self._test_rows(sources.root / source.file, source)
        for source in sources.files:
            if source not in tests:
                self._shaper.split = named.splits.get(source.file, "")
                self._tally.files += 1
                rows = reader.rows(sources.root / source.file, source)
                yield from self._counted(rows) if self._shaper.split == VALIDATION else rows
        self._shaper.split = ""
        for note in notes.of_named_files(named, self._tally.test_rows, self._held_rows):
            self._host.emit(Note(note))

    def _counted(self, rows: Iterator[Sample | RowProblem]) -> Iterator[Sample | RowProblem]:
        for row in rows:
            self._held_rows += isinstance(row, Sample)
            yield row

    def _test_rows(self, path: Path, source: Source) -> Iterator[Sample]:
        """The rows of a file that is left out; they are then known, so that none of them is trained on."""
        for row in FileReader(self._spec, self._new_shaper(), self._scratch, self._host).rows(path, source):
            if isinstance(row, Sample):
                yield row._replace(split=TEST)

    def _saved(self, root: Path) -> Iterator[Sample | RowProblem]:
        from smolorad.corpus.readers.saved import open_saved, read_dataset

        for name, dataset, split in open_saved(root, self._host.emit, held_out=self._by_split):
            self._tally.files += len(dataset.cache_files)
            self._shaper.split = split
            yield from shaped(self._shaper, read_dataset(dataset, name, self._shaper.select))

    def _hub(self) -> Iterator[Sample | RowProblem]:
        from smolorad.corpus.readers.hub import open_hub
        from smolorad.corpus.readers.saved import read_dataset

        assert self._spec.hub is not None
        self._host.emit(PhaseProgress("download"))
        dataset = open_hub(self._spec.hub, self._host.emit)
        self._tally.files += len(dataset.cache_files)
        name = f"{self._spec.hub.repo_id}/{self._spec.hub.split}"
        yield from shaped(self._shaper, read_dataset(dataset, name, self._shaper.select))
