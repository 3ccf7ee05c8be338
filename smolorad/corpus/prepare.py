"""From the user's files, or a dataset of the hub, to a dataset to train on.

Two passes, each over a few rows at a time: the first reads, cuts and drops, and keeps what is left in a draft; the second knows
how many rows there are, and splits them. Nothing in memory grows with the corpus but some 32 bytes a row, to tell duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from smolora._models import RowProblem
from smolora._text.chunk import chunk, count_words
from smolora._text.csv import read_csv
from smolora._text.dedup import Seen
from smolora._text.jsonl import read_jsonl
from smolora._text.rows import BadFile, Row, Rows
from smolora._text.txt import read_txt
from smolorad.corpus.arrow import TextWriter, read_batches, texts
from smolorad.corpus.infer import Sources, infer
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.split import held_out, held_out_rows
from smolorad.corpus.write import TRAIN, VALIDATION, split_writer, write_splits
from smolorad.domain import FileType, Note, OnError, PhaseProgress, Prepared, PrepareSpec
from smolorad.errors import BadData, Violation
from smolorad.publish import fresh

_TELL_EVERY_ROWS = 1000
_NAMES_IN_NOTE = 12


def prepare(files: Path | None, spec: PrepareSpec, tokenizer: Path | None, output: Path, host: Host) -> Prepared:
    """Writes a DatasetDict into the new folder `output`, of a folder of files or else of the spec's hub dataset.

    `tokenizer` is the `tokenizer.json` that counts tokens; None: they are not counted. Whatever is raised, `output` is gone
    then: InvalidRequest where the type of the files cannot be told, BadData for malformed rows (unless the spec drops them) or
    no text at all, NotFound and HubUnreachable for the hub, OSError where the disk fails.
    """
    tally = Tally()
    with fresh(output):
        draft = output / "draft.arrow"
        with closing(_rows(files, spec, tally, host)) as rows, TextWriter(draft) as writer:
            for text in _kept(rows, spec, tally, host):
                writer.append(text)
        if tally.malformed and spec.on_error is OnError.FAIL:
            raise tally.malformed_rows()
        if not tally.kept:
            raise tally.nothing_left()
        held = _write(draft, output, spec, tokenizer, tally, host)
        draft.unlink()
    named = "" if tokenizer is None else spec.model or tokenizer.parent.name
    return Prepared(tally.kept - held, held, tally.report(named))


def _rows(files: Path | None, spec: PrepareSpec, tally: Tally, host: Host) -> Generator[Row | RowProblem, None, None]:
    """The rows of every source in turn."""
    if files is None:
        yield from _hub_rows(spec, tally, host)
        return
    sources = infer(files, spec.file_type)
    if sources.left_out:
        host.tell(Note(_left_out(sources)))
    if sources.file_type is FileType.SAVED_DATASET:
        yield from _saved_rows(sources, spec, tally, host)
        return
    for file in sources.files:
        tally.files += 1
        yield from _file_rows(sources.file_type, sources.root / file, file, spec.text_field)


def _file_rows(file_type: FileType, path: Path, file: str, text_field: str) -> Rows:
    try:
        match file_type:
            case FileType.TXT:
                yield from read_txt(path, file)
            case FileType.JSONL:
                yield from read_jsonl(path, file, text_field)
            case FileType.CSV:
                yield from read_csv(path, file, text_field)
            case FileType.SAVED_DATASET:
                raise AssertionError("a saved dataset is a folder")
    except BadFile as error:
        raise BadData(str(error), [Violation(error.place, error.why)]) from error


def _saved_rows(sources: Sources, spec: PrepareSpec, tally: Tally, host: Host) -> Rows:
    # Imported where it is used: see the package's rule about heavy imports.
    from smolorad.corpus.readers.saved import open_saved, read_dataset

    dataset = open_saved(sources.root, host.tell)
    tally.files += len(dataset.cache_files)
    return read_dataset(dataset, str(dataset.split or TRAIN), spec.text_field)


def _hub_rows(spec: PrepareSpec, tally: Tally, host: Host) -> Rows:
    from smolorad.corpus.readers.hub import open_hub
    from smolorad.corpus.readers.saved import read_dataset

    assert spec.hub is not None
    host.tell(PhaseProgress("download"))
    dataset = open_hub(spec.hub, host.tell)
    tally.files += len(dataset.cache_files)
    return read_dataset(dataset, f"{spec.hub.repo_id}/{spec.hub.split}", spec.text_field)


def _left_out(sources: Sources) -> str:
    named = ", ".join(sources.left_out[:_NAMES_IN_NOTE])
    more = len(sources.left_out) - _NAMES_IN_NOTE
    rest = f" and {more:,} more" if more > 0 else ""
    return f"Left out, as only .{sources.file_type} files are read: {named}{rest}."


def _kept(rows: Rows, spec: PrepareSpec, tally: Tally, host: Host) -> Iterator[str]:
    """The texts to train on: cut, not empty, no two alike. After a row that fails the job the rest is only counted."""
    seen = Seen()
    for row in rows:
        host.check()
        tally.read += 1
        if tally.read % _TELL_EVERY_ROWS == 0:
            host.tell(PhaseProgress("read", tally.read, 0, "rows"))
        if not isinstance(row, Row):
            tally.add_problem(row)
        elif not row.text:
            tally.empty += 1
        elif not tally.malformed or spec.on_error is OnError.DROP:
            for text in chunk(row.text, spec.chunk_size):
                host.check()
                if seen.add(text):
                    tally.kept += 1
                    yield text
                else:
                    tally.duplicate += 1
    host.tell(PhaseProgress("read", tally.read, tally.read, "rows"))


def _write(draft: Path, output: Path, spec: PrepareSpec, tokenizer: Path | None, tally: Tally, host: Host) -> int:
    """Writes and counts the draft's rows as `train` and `validation`; returns how many are held out."""
    held = held_out_rows(tally.kept, spec.validation)
    if spec.validation and not held:
        host.tell(Note("There is only one row, so nothing is held out for evaluation."))
    count_tokens = _token_counter(tokenizer)
    choices = held_out(tally.kept, spec.validation, spec.seed)
    splits = [TRAIN, VALIDATION] if held else [TRAIN]
    done = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(split_writer(output, split)) for split in splits]
        for batch in read_batches(draft):
            host.check()
            found = texts(batch)
            tally.tokens += count_tokens(found)
            for text in found:
                tally.words += count_words(text)
                writers[next(choices)].append(text)
            done += len(found)
            host.tell(PhaseProgress("write", done, tally.kept, "rows"))
    write_splits(output, splits)
    return held


def _token_counter(tokenizer: Path | None) -> Callable[[Sequence[str]], int]:
    if tokenizer is None:
        return lambda texts: 0
    from smolorad.corpus.tokens import TokenCounter

    return TokenCounter(tokenizer).count
