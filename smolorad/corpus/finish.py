"""The second pass: the draft's rows are split, measured for the model, and written as the dataset."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from smolora._text.chunk import count_words
from smolora._text.dedup import Seen
from smolora._text.rows import excerpt
from smolorad.chat.turns import Value
from smolorad.corpus.arrow import FILE, LINE, described, numbered, read_batches, rows_of, shape_of
from smolorad.corpus.measure import Measured, Meter
from smolorad.corpus.quality import Edges, damage
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.shapes import COLUMNS, key_of, texts_of
from smolorad.corpus.split import OverlappingPieces, held_out, held_out_rows, reach
from smolorad.corpus.tokens import ModelText
from smolorad.corpus.write import (
    TRAIN,
    VALIDATION,
    SplitWriter,
    TokenWriter,
    remove_split,
    split_writer,
    token_writer,
    write_splits,
)
from smolorad.domain import Note, OnError, PhaseProgress, PrepareSpec, ProblemKind, RowProblem, Shape

_SPLITS = (TRAIN, VALIDATION)

# Where Alpaca's prompt begins to differ from row to row, and within how many characters.
_ALPACA_ASKS, _ALPACA_HEADER = "### Instruction:\n", 250

Place = tuple[int, int]  # the number of a file, and a line


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
        meter = None if model is None else Meter(model, shape, self._spec.max_length, parse_special=self._spec.parse_special)
        share = self._spec.validation
        held = held_out_rows(tally.kept, share)
        sides = Sides(tally.kept, self._spec)
        splits = _SPLITS if held else _SPLITS[:1]
        done = 0
        with ExitStack() as stack:
            writers = [stack.enter_context(split_writer(output, split, described(schema))) for split in splits]
            tokens = [stack.enter_context(token_writer(output, split)) for split in splits] if meter else []
            for batch in read_batches(draft, mapped=False):
                self._host.check()
                rows, places = rows_of(batch, COLUMNS[shape]), _places(batch)
                measured = meter.measure(rows) if meter else None
                sides.place(shape, rows, places)
                if measured is not None and self._spec.on_error is OnError.DROP:
                    self._leave_out(sides, rows, measured, places)
                self._look(shape, rows, measured, places, sorted(sides.taken[0] + sides.taken[1]))
                _write(batch, measured, sides.taken, writers, tokens)
                done += len(rows)
                self._host.tell(PhaseProgress("write", done, tally.kept, "rows"))
        train, held = writers[0].rows, writers[1].rows if held else 0
        if not train:
            raise tally.nothing_to_train_on()
        self._tell_of_the_split(train, held, share)
        if not held:
            remove_split(output, VALIDATION)
        write_splits(output, list(_SPLITS if held else _SPLITS[:1]), parse_special=self._spec.parse_special)
        self._tell_boilerplate()
        return train, held

    def _leave_out(self, sides: Sides, rows: list[tuple[Value, ...]], measured: list[Measured], places: list[Place]) -> None:
        """Leaves out the rows that the model cannot be shown."""
        refused = {at for at in (*sides.taken[0], *sides.taken[1]) if measured[at].row.refused}
        for at in sorted(refused):
            ((kind, why),) = measured[at].problems[:1]
            self._find(kind, f"{why}; it was left out", texts_of(rows[at])[0], *places[at])
        if refused:
            sides.leave_out(refused)
            self._tally.kept -= len(refused)

    def _tell_of_the_split(self, train: int, held: int, share: float) -> None:
        tally, lost = self._tally, self._tally.kept - train - held
        if lost:
            have = "1 piece has" if lost == 1 else f"{lost:,} pieces have"
            self._host.tell(Note(f"{have} a part both of what is trained on and of what is held out, and was left out."))
            tally.kept -= lost
        if not share or held:
            return
        why = "There is only one row"
        if tally.kept > 1:
            why = "Rows of one prompt, and pieces that overlap, stay in one split, and here are no others"
        self._host.tell(Note(f"{why}, so nothing is held out for evaluation."))

    def _look(
        self,
        shape: Shape,
        rows: list[tuple[Value, ...]],
        measured: list[Measured] | None,
        places: list[Place],
        taken: Iterable[int],
    ) -> None:
        tally, edges, files = self._tally, self._edges, self._files
        if tally.repetitions:
            for row, (file, line) in zip(rows, places, strict=True):
                tally.stands(row, files[file], line)
        for at in taken:
            row, (file, line) = rows[at], places[at]
            texts = texts_of(row)
            for text in texts:
                tally.words += count_words(text)
                tally.characters += len(text)
                if (found := damage(text)) is not None:
                    self._find(*found, text, file, line)
            edges.add(_learned(shape, row), files[file], line)
            if measured is None:
                continue
            one = measured[at].row
            tokens = one.tokens
            tally.tokens += tokens - one.added
            tally.lengths.add(tokens, one.scored)
            for kind, why in measured[at].problems:
                self._find(kind, why, texts[0], file, line)

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
    """Which rows of a batch go to which split: as drawn, but rows of one prompt, or pieces that overlap, never to both."""

    def __init__(self, rows: int, spec: PrepareSpec) -> None:
        self._drawn = held_out(rows, spec.validation, spec.seed)
        near = reach(spec.chunk_size, spec.chunk_overlap)
        self._pieces = OverlappingPieces(rows, spec.validation, spec.seed, near) if near else None
        self._prompts = (Seen(), Seen())
        self.taken: tuple[array[int], array[int]] = (array("q"), array("q"))

    def place(self, shape: Shape, rows: list[tuple[Value, ...]], places: Sequence[Place]) -> None:
        """Settles a batch; `taken` then holds the numbers of the rows of each split."""
        self.taken = (array("q"), array("q"))
        for at, row in enumerate(rows):
            held: bool | None
            if shape is not Shape.TEXT:
                held = self._with_its_prompt(key_of((_prompt(shape, row),)), next(self._drawn))
            else:
                held = next(self._drawn) if self._pieces is None else self._pieces.side(places[at])
            if held is not None:
                self.taken[held].append(at)

    def leave_out(self, rows: Collection[int]) -> None:
        """Takes rows of the batch out again."""
        train, held = (array("q", [at for at in side if at not in rows]) for side in self.taken)
        self.taken = train, held

    def _with_its_prompt(self, prompt: str, held: bool) -> bool:
        train, validation = self._prompts
        # The first row is trained on, so that there is one.
        held = prompt not in train and (held or prompt in validation) and len(train) > 0
        self._prompts[held].add(prompt)
        return held


def _places(batch: pa.RecordBatch) -> list[Place]:
    return list(zip(batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist(), strict=True))


def _prompt(shape: Shape, row: tuple[Value, ...]) -> Value:
    """What stands before the answer; of a conversation everything up to its first answer."""
    first = row[0]
    if shape is not Shape.CHAT or isinstance(first, str):
        return first
    until = next((at for at, turn in enumerate(first) if turn.role == "assistant"), len(first))
    return first[:until]


def _learned(shape: Shape, row: tuple[Value, ...]) -> str:
    """What a model learns to say of a row: its answers. Many rows may ask alike, as with Alpaca's prompt, and answer not."""
    first = row[0]
    if shape is Shape.TEXT and isinstance(first, str):
        at = first.find(_ALPACA_ASKS, 0, _ALPACA_HEADER)
        return first if at < 0 else first[at + len(_ALPACA_ASKS) :]
    if shape is Shape.CHAT and not isinstance(first, str):
        return "\n".join(turn.content for turn in first if turn.role == "assistant")
    return "\n".join(texts_of((row[1],)))


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
            tokens[number].write([measured[at].row for at in places])
