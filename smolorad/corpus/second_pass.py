"""The second pass: the draft's rows are split, measured for the model, and written as the dataset."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from smolora.common.text.chunk import count_words
from smolora.common.text.dedup import Seen
from smolora.common.text.rows import excerpt
from smolorad.chat.turns import Value
from smolorad.corpus.arrow_file import FILE, LINE, described, numbered, read_batches, rows_of, shape_of
from smolorad.corpus.measure import Measured, Meter
from smolorad.corpus.quality import SHORTEST, Edges, damage, is_sound
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.shapes import COLUMNS, key_of, texts_of
from smolorad.corpus.split_assignment import Place, Sides, Taken
from smolorad.corpus.tokenizer import ModelText
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
_ALSO_A_TEST = "stands also, word for word, among rows of a test split, and was left out; remove it from one of them"

# Where Alpaca's prompt begins to differ from row to row, and within how many characters.
_ALPACA_ASKS, _ALPACA_HEADER = "### Instruction:\n", 250


class Finisher:
    """Writes a draft as a dataset, and reports on its rows."""

    def __init__(self, spec: PrepareSpec, tally: Tally, host: Host, files: list[str], sides: Sides, tests: Seen) -> None:
        self._spec = spec
        self._tally = tally
        self._host = host
        self._files = files
        self._sides = sides
        self._tests = tests  # rows of a test split that are in the draft
        self._edges = Edges()

    def write(self, draft: Path, schema: pa.Schema, model: ModelText | None, output: Path) -> tuple[int, int]:
        """Writes both splits into `output`; returns how many rows are to train on and how many are held out."""
        shape, tally = shape_of(schema), self._tally
        meter = None if model is None else Meter(model, shape, self._spec.max_length, parse_special=self._spec.parse_special)
        sides = self._sides
        splits = _SPLITS if sides.wanted else _SPLITS[:1]
        done, drafted = 0, tally.kept
        with ExitStack() as stack:
            writers = [stack.enter_context(split_writer(output, split, described(schema))) for split in splits]
            tokens = [stack.enter_context(token_writer(output, split)) for split in splits] if meter else []
            for batch in read_batches(draft, mapped=False):
                self._host.check()
                rows, places = rows_of(batch, COLUMNS[shape]), _places(batch)
                measured = meter.measure(rows) if meter else None
                taken = sides.place(places)
                if self._tests:
                    taken = self._without_tests(taken, rows, places)
                if measured is not None and self._spec.on_error is OnError.DROP:
                    taken = self._without_refused(taken, rows, measured, places)
                self._look(shape, rows, measured, places, sorted(taken[0] + taken[1]))
                self._look_at_largest(rows, places, done)
                _write(batch, measured, taken, writers, tokens)
                done += len(rows)
                self._host.emit(PhaseProgress("write", done, drafted, "rows"))
        train, held = writers[0].rows, writers[1].rows if len(writers) > 1 else 0
        if not train and ProblemKind.TEMPLATE in tally.found:
            raise tally.nothing_shown()
        if not train and self._tests:
            raise tally.nothing_left()
        self._note_split(train, held)
        if not held:
            remove_split(output, VALIDATION)
        write_splits(output, list(_SPLITS if held else _SPLITS[:1]), parse_special=self._spec.parse_special)
        self._find_boilerplate()
        return train, held

    def _without_refused(
        self, taken: Taken, rows: list[tuple[Value, ...]], measured: list[Measured], places: list[Place]
    ) -> Taken:
        """Leaves out the rows that the model cannot be shown."""
        refused = [at for at in sorted(taken[0] + taken[1]) if measured[at].row.refused]
        for at in refused:
            ((kind, why),) = measured[at].problems[:1]
            self._find(kind, f"{why}; it was left out", texts_of(rows[at])[0], *places[at])
        if not refused:
            return taken
        return self._without(taken, refused)

    def _without_tests(self, taken: Taken, rows: list[tuple[Value, ...]], places: list[Place]) -> Taken:
        """Leaves out the rows that turned out to be rows of a test split as well."""
        also = [at for at in sorted(taken[0] + taken[1]) if key_of(rows[at]) in self._tests]
        for at in also:
            self._find(ProblemKind.IN_TWO_SPLITS, _ALSO_A_TEST, texts_of(rows[at])[0], *places[at])
        return self._without(taken, also)

    def _without(self, taken: Taken, left_out: Collection[int]) -> Taken:
        self._tally.kept -= len(left_out)
        train, held = (array("q", [at for at in side if at not in left_out]) for side in taken)
        return train, held

    def _look_at_largest(self, rows: list[tuple[Value, ...]], places: list[Place], before: int) -> None:
        """Finds that rows of one prompt could not be kept together, at the first row of the largest group."""
        draw = self._sides.draw
        if draw is None or not draw.short or not before <= draw.first_of_largest < before + len(rows):
            return
        at, held = draw.first_of_largest - before, sum(draw.held)
        file, line = places[at]
        prompts = "1 prompt" if draw.groups == 1 else f"{draw.groups:,} prompts"
        how = "others of it are trained on; --strict-groups keeps the rows of a prompt in one split"
        if self._spec.strict_groups:
            how = "so few others fit, as --strict-groups keeps the rows of a prompt in one split"
        why = f"has the prompt of {draw.largest - 1:,} other rows, of {prompts} in all; {held:,} rows are held out, and {how}"
        self._tally.find(RowProblem(self._files[file], line, why, ProblemKind.SHARED_PROMPT, excerpt(texts_of(rows[at])[0])))
        self._tally.count(ProblemKind.SHARED_PROMPT, draw.largest - 1)

    def _note_split(self, train: int, held: int) -> None:
        tally, lost = self._tally, self._tally.kept - train - held
        if lost:
            have, left = ("1 piece has", "was") if lost == 1 else (f"{lost:,} pieces have", "were")
            self._host.emit(Note(f"{have} a part both of what is trained on and of what is held out, and {left} left out."))
            tally.kept -= lost
        if not self._spec.validation or held:
            return
        why = "There is only one row"
        if tally.kept > 1:
            why = "Rows of one prompt, and pieces that overlap, stay in one split, and too few are of others"
        self._host.emit(Note(f"{why}, so nothing is held out for evaluation."))

    def _look(
        self,
        shape: Shape,
        rows: list[tuple[Value, ...]],
        measured: list[Measured] | None,
        places: list[Place],
        taken: Sequence[int],
    ) -> None:
        tally, files = self._tally, self._files
        if tally.repetitions:
            for row, (file, line) in zip(rows, places, strict=True):
                tally.stands(row, files[file], line)
        texts = [rows[at][0] for at in taken] if shape is Shape.TEXT else [text for at in taken for text in texts_of(rows[at])]
        whole = " ".join(texts)  # type: ignore[arg-type]
        tally.words += _count_words(whole)
        tally.characters += len(whole) - max(len(texts) - 1, 0)
        if not is_sound(whole):
            self._look_for_damage(rows, places, taken)
        self._edges.rows += len(taken)
        for at in taken:
            if len(learned := _learned(shape, rows[at])) >= SHORTEST:
                file, line = places[at]
                self._edges.add(learned, files[file], line)
        if measured is not None:
            self._count_tokens(rows, [measured[at] for at in taken], [places[at] for at in taken], taken)

    def _look_for_damage(self, rows: list[tuple[Value, ...]], places: list[Place], taken: Sequence[int]) -> None:
        for at in taken:
            for text in texts_of(rows[at]):
                if (found := damage(text)) is not None:
                    self._find(*found, text, *places[at])

    def _count_tokens(
        self, rows: list[tuple[Value, ...]], measured: list[Measured], places: list[Place], taken: Sequence[int]
    ) -> None:
        tokens = [one.row.tokens for one in measured]
        self._tally.tokens += sum(tokens) - sum([one.row.added for one in measured])
        self._tally.lengths.add(tokens, sum([one.row.scored for one in measured]))
        for one, place, at in zip(measured, places, taken, strict=True):
            for kind, why in one.problems:
                self._find(kind, why, texts_of(rows[at])[0], *place)

    def _find(self, kind: ProblemKind, why: str, text: str, file: int, line: int) -> None:
        if self._tally.wants(kind):
            self._tally.find(RowProblem(self._files[file], line, why, kind, excerpt(text)))
        else:
            self._tally.count(kind)

    def _find_boilerplate(self) -> None:
        if (found := self._edges.boilerplate()) is None:
            return
        rows, text, file, line = found
        why = f"shares {excerpt(text)!r} with {rows - 1:,} other rows; the model learns that more than the rest, so cut it away"
        self._tally.find(RowProblem(file, line, why, ProblemKind.BOILERPLATE, excerpt(text)))
        self._tally.count(ProblemKind.BOILERPLATE, rows - 1)


def _count_words(text: str) -> int:
    """As `count_words`; in text of words and single spaces the spaces are counted, which is many times as fast."""
    if text.isprintable() and "  " not in text and text == text.strip():
        return text.count(" ") + 1 if text else 0
    return count_words(text)


def _places(batch: pa.RecordBatch) -> list[Place]:
    return list(zip(batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist(), strict=True))


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
