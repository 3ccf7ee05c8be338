"""From the user's files, or a dataset of the hub, to a dataset to train on.

Two passes, each over a few rows at a time: the first reads, cuts and drops, and keeps what is left in a draft; the second knows
how many rows there are, splits them, and measures them for the model. Nothing in memory grows with the corpus but some 32 bytes
a row, to find duplicates, and with near duplicates two kilobytes more.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from smolorad.corpus.arrow_file import DraftWriter, shape_of
from smolorad.corpus.chunk import cutter
from smolorad.corpus.first_pass import Gatherer
from smolorad.corpus.named_splits import VALIDATION
from smolorad.corpus.reading import Reader
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.second_pass import Finisher
from smolorad.corpus.split_assignment import sides_of
from smolorad.corpus.tokenizer import ModelText
from smolorad.corpus.write import write_tokenizer
from smolorad.domain import ChunkUnit, OnError, Prepared, PrepareSpec
from smolorad.publish import fresh

_COLLECT_AFTER = 200_000  # objects, of which a batch of rows has some ten thousand


def prepare(files: Path | None, spec: PrepareSpec, tokenizer: Path | None, output: Path, host: Host) -> Prepared:
    """Writes a DatasetDict into the new folder `output`, of a folder of files or else of the spec's hub dataset.

    `tokenizer` is the `tokenizer.json` of the model that rows are measured for; None: they are not. Whatever is raised,
    `output` is gone then: InvalidRequest where the type of the files is not clear, BadData for malformed rows (unless
    the spec drops them) or no text at all, NotFound and HubUnreachable for the hub, OSError where the disk fails.
    """
    began = time.monotonic()
    tally = Tally(spec.max_length)
    # The tokenizer is read while rows are: the library that reads it lets Python run.
    with fresh(output), _collecting_seldom(), ThreadPoolExecutor(1) as beside:
        loading = None if tokenizer is None else beside.submit(ModelText, tokenizer)
        draft = output / "draft.arrow"
        by_tokens = spec.chunk_size and spec.chunk_unit is ChunkUnit.TOKENS
        cut = cutter(spec, loading.result() if loading is not None and by_tokens else None)
        gatherer = Gatherer(spec, tally, host, cut)
        with closing(Reader(spec, tally, host, output).samples(files)) as rows, DraftWriter(draft) as writer:
            gatherer.gather(rows, writer)
        model = None if loading is None else loading.result()
        if tally.malformed and spec.on_error is OnError.FAIL:
            raise tally.malformed_rows()
        if writer.schema is None:
            raise tally.nothing_left()
        if writer.splits[VALIDATION] == tally.kept:
            raise tally.nothing_to_train_on()
        sides = sides_of(spec, tally.kept, gatherer.prompts, writer)
        finisher = Finisher(spec, tally, host, [file for file, _ in writer.files], sides, gatherer.late)
        train, held = finisher.write(draft, writer.schema, model, output)
        draft.unlink()
        if tokenizer is not None:
            write_tokenizer(output, tokenizer)
    named = "" if tokenizer is None else spec.model or tokenizer.parent.name
    return Prepared(train, held, tally.report(named, time.monotonic() - began), shape_of(writer.schema))


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Pauses the garbage collector: rows are many and have no cycles."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
