"""The rows of a training: tokenised as TRL does it, but one batch at a time when it is needed.

TRL prepares a whole dataset before the first step, in five passes over every row. That would keep generation waiting for
half a minute at 31,000 rows, and write its caches into the published dataset. Texts are read when their step comes; of the
other shapes every row is looked at once before, since a row of which nothing is learned must not be a step.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow.compute as pc
from trl import pack_dataset

from smolorad.chat.folder import parses_special
from smolorad.chat.model import ModelText
from smolorad.chat.rows import EncodedRow
from smolorad.domain import TrainerSettings
from smolorad.engine.runtime.errors import reading
from smolorad.engine.train.tokenize import PREFERENCE, TEXT, RowTokenizer, Shape, scored_parts, shape_of
from smolorad.errors import BadData, InvalidRequest, UnsupportedModel

_AT_ONCE, _SIZED_AT_ONCE = 256, 10_000  # rows between two calls of `between`
_FEW = 8
_LONG_ROWS = 8  # of which one is the longest
_COUNTED_BYTES = 4 * 2**20  # of texts that may be cut: about a second's work


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that a run trains on and is measured on.

    Each row has `input_ids` and `labels`; a pair has `prompt_ids`, `chosen_ids` and `rejected_ids`.
    """

    train: Any  # datasets.Dataset
    held_out: Any | None  # datasets.Dataset
    held_out_rows: int  # before packing
    shape: Shape
    scored_share: float | None  # of the training rows' tokens, 0 to 1; None where all are scored
    left_out: Mapping[str, int]  # why nothing would be learned of training rows, and of how many
    cut: int  # training rows that are longer than the settings allow
    cut_is_exact: bool  # if not, there may be more
    longest: int  # tokens of the longest training row
    as_chat: bool  # whether they are conversations, in any shape


@dataclass(slots=True)
class _Learned:
    """Some rows without those of which nothing would be learned."""

    places: Sequence[int] = ()
    tokens: int = 0
    scored: int = 0
    longest: int = 0  # tokens of one
    cut: int = 0  # rows longer than max_length
    cut_is_exact: bool = True  # if not, there may be more
    why_not: Counter[str] = field(default_factory=Counter)  # why nothing is learned of rows, and of how many


def read_rows(folder: Path, text: ModelText, settings: TrainerSettings, max_length: int, between: Callable[[], None]) -> Rows:
    """The rows of a prepared dataset, memory-mapped; `between` is called now and then where reading takes long.

    Raises Damaged for a folder that is no dataset, BadData where there is nothing to train on, InvalidRequest for settings that
    do not go with its shape, UnsupportedModel for conversations without a chat template.
    """
    splits = _open(folder)
    shape = shape_of(splits["train"].column_names)
    if shape.is_preference and settings.packing:
        raise InvalidRequest.field("trainer.packing", "does not go with preference pairs; leave it out")
    as_chat = not isinstance(splits["train"].features[shape.columns[0]], datasets.Value)
    if as_chat and text.template is None:
        raise UnsupportedModel("The model has no chat template, so it cannot learn conversations; train it on texts instead.")
    encoder = text.rows(
        parse_special=parses_special(folder),
        completion_only=settings.completion_only_loss,
        assistant_only=settings.assistant_only_loss,
    )
    tokenizer = RowTokenizer(shape, encoder, max_length)
    train, held_out = splits["train"].select_columns(list(shape.columns)), splits.get("validation")
    if held_out is not None:
        held_out = held_out.select_columns(list(shape.columns))
        if settings.eval_rows:
            held_out = held_out.select(range(min(settings.eval_rows, len(held_out))))
    if shape is TEXT:
        learned = _learned_texts(train, tokenizer, settings, max_length, between)
    else:
        learned = _learned(train, tokenizer, max_length, between)
    if not learned.places:
        raise _nothing(folder, shape, learned, max_length)
    if len(learned.places) < len(train):
        train = train.select(learned.places)
    if held_out is not None:
        held_out = _measurable(held_out, tokenizer, max_length, between)
    held_out_rows = len(held_out) if held_out is not None else 0
    longest = learned.longest
    if settings.packing:
        uncut = RowTokenizer(shape, encoder, None)
        train = _packed(train, uncut, max_length, between)
        longest = pc.max(pc.list_value_length(train.data.column("input_ids"))).as_py()
        held_out = _packed(held_out, uncut, max_length, between) if held_out is not None else None
    else:
        train = train.with_transform(tokenizer)
        held_out = held_out.with_transform(tokenizer) if held_out is not None else None
    return Rows(
        train=train,
        held_out=held_out,
        held_out_rows=held_out_rows,
        shape=shape,
        scored_share=None if shape is TEXT else learned.scored / learned.tokens,
        left_out=dict(learned.why_not),
        cut=0 if settings.packing else learned.cut,
        cut_is_exact=learned.cut_is_exact,
        longest=longest,
        as_chat=as_chat,
    )


def _open(folder: Path) -> dict[str, Any]:
    with reading(f"The dataset {folder}", "prepare it again"):
        splits = datasets.load_from_disk(str(folder))
        for split in splits.values() if isinstance(splits, datasets.DatasetDict) else ():
            split.data.table.validate(full=True)  # Arrow trusts the offsets in a file
            split[:1]
    if not isinstance(splits, datasets.DatasetDict) or "train" not in splits:
        raise BadData(f"{folder} has no split train; prepare the dataset again.")
    return dict(splits)


def _nothing(folder: Path, shape: Shape, learned: _Learned, max_length: int) -> BadData:
    """The error for rows without anything to learn, with the most common reason."""
    if shape is TEXT:
        return BadData(f"No row of {folder} has a token to learn; prepare the dataset again from files with text.")
    why = learned.why_not.most_common(1)[0][0] if learned.why_not else f"it has no {shape.unit}"
    return BadData(f"Nothing of {folder} would be learned: {why}.")


def _measurable(rows: Any, tokenizer: RowTokenizer, max_length: int, between: Callable[[], None]) -> Any | None:
    """The held-out rows that have a token to measure; None where there are none."""
    if tokenizer.shape is TEXT:
        return rows if _has_text(rows, tokenizer) else None
    places = _learned(rows, tokenizer, max_length, between).places
    return rows.select(places) if places else None


def _learned_texts(
    rows: Any, tokenizer: RowTokenizer, settings: TrainerSettings, max_length: int, between: Callable[[], None]
) -> _Learned:
    """Texts are trained as they are, and read when their step comes: only the longest are measured here."""
    # The first token of a row has nothing before it to be predicted from.
    if not _has_text(rows, tokenizer):
        return _Learned()
    found = _Learned(range(len(rows)))
    if not settings.packing:
        found.longest, found.cut, found.cut_is_exact = _longest_texts(rows, tokenizer, max_length, between)
    return found


def _has_text(rows: Any, tokenizer: RowTokenizer) -> bool:
    # The first row nearly always decides. Not by `with_transform`, which hashes the tokenizer each time.
    batches = (rows[begin : begin + _FEW] for begin in range(0, len(rows), _FEW))
    return any(row.tokens > 1 for batch in batches for row in tokenizer.rows(batch))


def _longest_texts(rows: Any, tokenizer: RowTokenizer, max_length: int, between: Callable[[], None]) -> tuple[int, int, bool]:
    """Tokens of the longest text, how many texts are longer than `max_length`, and whether all were counted.

    Texts are long in bytes where they are long in tokens, and have no more tokens than bytes, so that few need to be tokenised.
    """
    sizes: list[tuple[int, int]] = []
    for begin in range(0, len(rows), _SIZED_AT_ONCE):
        if begin:
            between()
        batch = rows.with_format("arrow")[begin : begin + _SIZED_AT_ONCE]
        sizes += zip(pc.binary_length(batch["text"]).to_pylist(), range(begin, begin + _SIZED_AT_ONCE), strict=False)
    places = [place for _, place in heapq.nlargest(_LONG_ROWS, sizes)]
    longest = max(row.tokens for row in tokenizer.rows(rows[places]))
    if longest < max_length:
        return longest, 0, True
    long = sorted(((size, place) for size, place in sizes if size > max_length), reverse=True)
    cut, read = 0, 0
    for begin in range(0, len(long), _FEW):
        if read >= _COUNTED_BYTES:
            return longest, cut, False
        between()
        few = long[begin : begin + _FEW]
        read += sum(size for size, _ in few)
        cut += sum(row.tokens > max_length for row in tokenizer.uncut(rows[[place for _, place in few]]))
    return longest, cut, True


def _learned(rows: Any, tokenizer: RowTokenizer, max_length: int, between: Callable[[], None]) -> _Learned:
    """Measures every row; raises BadData for rows that the model's template cannot render."""
    found, places = _Learned(), []
    refused: list[tuple[int, str]] = []  # rows that the model cannot be shown, from 1, and why
    for begin in range(0, len(rows), _AT_ONCE):
        between()
        batch = rows[begin : begin + _AT_ONCE]
        if tokenizer.shape.is_preference:
            counted = [_count_pair(pair, max_length) for pair in tokenizer.pairs(batch)]
        else:
            counted = [_count(row, max_length, tokenizer.shape) for row in tokenizer.uncut(batch)]
        for place, one in enumerate(counted, begin):
            if one.refused:
                refused.append((place + 1, one.refused))
            elif one.why_not:
                found.why_not[one.why_not] += 1
            else:
                places.append(place)
                found.longest = max(found.longest, one.length)
                found.tokens += one.tokens
                found.scored += one.scored
                found.cut += one.cut
    if refused:
        (row, why), more = refused[0], len(refused) - 1
        others = f", as {more:,} other {'row' if more == 1 else 'rows'} cannot" if more else ""
        raise BadData(
            f"Row {row:,} of the dataset cannot be shown to the model{others}: {why}; prepare the dataset again with "
            "--on-error drop to leave such rows out, or train another model."
        )
    found.places = places
    return found


class _Count(NamedTuple):
    """A row as it is trained."""

    tokens: int = 0
    scored: int = 0
    length: int = 0
    cut: bool = False
    why_not: str = ""
    refused: str = ""


def _count(row: EncodedRow, max_length: int, shape: Shape) -> _Count:
    if row.refused:
        return _Count(refused=row.refused)
    kept = row.cut(max_length)
    scored = sum(end - begin for begin, end in scored_parts(kept))
    if not scored:
        return _Count(why_not=_why_nothing(row, max_length, shape))
    return _Count(kept.tokens, scored, kept.tokens, row.tokens > max_length)


def _why_nothing(row: EncodedRow, max_length: int, shape: Shape) -> str:
    if any(True for _ in scored_parts(row)):
        return f"no row has {shape.unit} within trainer.max_length {max_length:,}; raise it, or shorten what stands before them"
    if row.shown is not None and row.shown.excluded:
        return "the chat template's generation marks leave the answers out; train another model, or use another template"
    if row.shown is not None and row.shown.answers:
        return "the chat template does not show the answers; train another model"
    return f"no row has {shape.unit} to learn; prepare the dataset again from rows that have"


def _count_pair(pair: tuple[EncodedRow, EncodedRow], max_length: int) -> _Count:
    """Both answers of a pair; there is nothing to compare if they are equal up to max_length."""
    refused = next((row.refused for row in pair if row.refused), "")
    if refused:
        return _Count(refused=refused)
    better, worse = (row.cut(max_length) for row in pair)
    if not all(row.spans for row in pair):
        return _Count(why_not=_why_nothing(next(row for row in pair if not row.spans), max_length, PREFERENCE))
    if not (better.spans and worse.spans):
        return _Count(why_not=_why_nothing(pair[0], max_length, PREFERENCE))
    if better.ids == worse.ids:
        why = f"both answers are the same within trainer.max_length {max_length:,}; raise it, or shorten what stands before"
        return _Count(why_not=why)
    tokens = better.tokens + worse.tokens
    cut = max(row.tokens for row in pair) > max_length
    return _Count(tokens, better.scored + worse.scored, max(better.tokens, worse.tokens), cut)


def _packed(rows: Any, tokenizer: RowTokenizer, max_length: int, between: Callable[[], None]) -> Any:
    def tokenize_some(batch: Mapping[str, Sequence[Any]]) -> dict[str, list[list[int]]]:
        between()
        return tokenizer(batch)

    datasets.disable_progress_bars()
    # In memory: a cache file would land in the published dataset. A fingerprint of ours, since the function cannot be hashed.
    in_memory = {"keep_in_memory": True, "new_fingerprint": "tokenised"}
    tokens = rows.map(tokenize_some, batched=True, remove_columns=rows.column_names, **in_memory)
    return pack_dataset(tokens, max_length, "bfd", {"keep_in_memory": True})
