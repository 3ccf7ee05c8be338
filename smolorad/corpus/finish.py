"""The second pass: the draft's rows are split, measured for the model, and written as the dataset."""

from __future__ import annotations

from array import array
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from smolora._text.chunk import count_words
from smolora._text.dedup import Seen
from smolora._text.rows import excerpt
from smolorad.corpus.arrow import FILE, LINE, described, numbered, read_batches, rows_of, shape_of
from smolorad.corpus.measure import Measured, Meter
from smolorad.corpus.quality import Edges, damage
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.shapes import COLUMNS, Value, key_of, texts_of
from smolorad.corpus.split import held_out, held_out_rows
from smolorad.corpus.tokens import ModelText
from smolorad.corpus.write import TRAIN, VALIDATION, SplitWriter, TokenWriter, split_writer, token_writer, write_splits
from smolorad.domain import Note, PhaseProgress, PrepareSpec, ProblemKind, RowProblem, Shape

_SPLITS = (TRAIN, VALIDATION)


class Finisher:
    """Writes a draft as a dataset, and tells what is in it."""

    def __init__(self, spec: PrepareSpec, tally: Tally, host: Host, files: list[str]) -> None:
        self._spec = spec
        self._tally = tally
        self._host = host
        self._files = files
        self._edges = Edges()

    def write(self, draft: Path, schema: pa.Schema, model: ModelText | None, output: Path) -> tuple[int, int]:
        """Writes both splits into `output`; returns how many rows are to train on and how many are held out."""
        shape, tally = shape_of(schema), self._tally
        meter = None if model is None else Meter(model, shape, self._spec.max_length)
        share = self._spec.validation
        held = held_out_rows(tally.kept, share)
        if share and not held:
            self._host.tell(Note("There is only one row, so nothing is held out for evaluation."))
        sides = Sides(tally.kept, share, self._spec.seed)
        splits = _SPLITS if held else _SPLITS[:1]
        done = 0
        with ExitStack() as stack:
            writers = [stack.enter_context(split_writer(output, split, described(schema))) for split in splits]
            tokens = [stack.enter_context(token_writer(output, split)) for split in splits] if meter else []
            for batch in read_batches(draft, mapped=False):
                self._host.check()
                rows = rows_of(batch, COLUMNS[shape])
                measured = meter.measure(rows) if meter else None
                self._look(shape, rows, measured, batch)
                sides.place(shape, rows)
                _write(batch, measured, sides.taken, writers, tokens)
                done += len(rows)
                self._host.tell(PhaseProgress("write", done, tally.kept, "rows"))
        write_splits(output, list(splits))
        self._tell_boilerplate()
        return writers[0].rows, writers[1].rows if held else 0

    def _look(
        self, shape: Shape, rows: list[tuple[Value, ...]], measured: list[Measured] | None, batch: pa.RecordBatch
    ) -> None:
        tally = self._tally
        places = list(zip(batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist(), strict=True))
        for at, row in enumerate(rows):
            texts = texts_of(row)
            for text in texts:
                tally.words += count_words(text)
                tally.characters += len(text)
                if (found := damage(text)) is not None:
                    self._find(*found, text, *places[at])
            if shape is Shape.TEXT:
                self._edges.add(texts[0], self._files[places[at][0]], places[at][1])
        if measured is None:
            return
        for at, one in enumerate(measured):
            tally.tokens += one.tokens - one.added
            tally.lengths.add(one.tokens, one.scored)
            for kind, why in one.problems:
                self._find(kind, why, texts_of(rows[at])[0], *places[at])

    def _find(self, kind: ProblemKind, why: str, text: str, file: int, line: int) -> None:
        if self._tally.wants(kind):
            self._tally.find(RowProblem(self._files[file], line, why, kind, excerpt(text)))
        else:
            self._tally.count(kind)

    def _tell_boilerplate(self) -> None:
        if (found := self._edges.boilerplate()) is None:
            return
        rows, text, file, line = found
        why = f"shares {excerpt(text)!r} with {rows - 1:,} other rows; the model learns that more than the rest, so cut it away"
        self._tally.find(RowProblem(file, line, why, ProblemKind.BOILERPLATE, excerpt(text)))
        self._tally.count(ProblemKind.BOILERPLATE, rows - 1)


class Sides:
    """Which rows of a batch go to which split: as drawn, but rows of one prompt never to both."""

    def __init__(self, rows: int, share: float, seed: int) -> None:
        self._drawn = held_out(rows, share, seed)
        self._left = rows
        self._prompts = (Seen(), Seen())
        self.taken: tuple[array[int], array[int]] = (array("q"), array("q"))

    def place(self, shape: Shape, rows: list[tuple[Value, ...]]) -> None:
        """Settles a batch; `taken` then holds the places of the rows of each split."""
        self.taken = (array("q"), array("q"))
        for at, row in enumerate(rows):
            held = next(self._drawn)
            if shape is not Shape.TEXT:
                held = self._with_its_prompt(key_of((_prompt(shape, row),)), held)
            self.taken[held].append(at)

    def _with_its_prompt(self, prompt: str, held: bool) -> bool:
        train, validation = self._prompts
        # The first row is trained on, so that there is one.
        held = prompt not in train and (held or prompt in validation) and len(train) > 0
        self._prompts[held].add(prompt)
        return held


def _prompt(shape: Shape, row: tuple[Value, ...]) -> Value:
    """What stands before the answer; of a conversation everything up to its first answer."""
    first = row[0]
    if shape is not Shape.CHAT or isinstance(first, str):
        return first
    until = next((at for at, (role, _) in enumerate(first) if role == "assistant"), len(first))
    return first[:until]


def _write(
    batch: pa.RecordBatch,
    measured: list[Measured] | None,
    taken: tuple[array[int], array[int]],
    writers: list[SplitWriter],
    tokens: list[TokenWriter],
) -> None:
    rows = batch.drop_columns([FILE, LINE])
    for number, writer in enumerate(writers):
        places = taken[number]
        if not places:
            continue
        writer.write(rows if len(places) == batch.num_rows else rows.take(numbered(places, pa.int64())))
        if measured is not None:
            tokens[number].write([measured[at] for at in places])
