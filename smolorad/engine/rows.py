"""The rows of a training: tokenised as TRL does it, but one batch at a time when it is needed.

TRL prepares a whole dataset before the first step, in five passes over every row. That would keep generation waiting for
half a minute at 31,000 rows, and write its caches into the published dataset. Texts are read when their step comes; of the
other shapes every row is looked at once before, since a row of which nothing is learned must not be a step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc
from trl import pack_dataset

from smolorad.domain import TrainerSettings
from smolorad.engine.tokenise import TEXT, UNSCORED, Shape, Tokenise, shape_of, tokeniser
from smolorad.errors import BadData, Damaged, InvalidRequest

_AT_ONCE, _SIZED_AT_ONCE = 256, 10_000  # rows between two breaths
_FEW = 8
_LONG_ROWS = 8  # of which one is the longest


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run trains on, and what it is measured on.

    Each row has `input_ids` and `labels`; a pair has `prompt_ids`, `chosen_ids` and `rejected_ids`.
    """

    train: Any  # datasets.Dataset
    held_out: Any | None  # datasets.Dataset
    held_out_rows: int  # before packing
    shape: Shape
    scored_share: float | None  # of the training rows' tokens, 0 to 1; None where all are scored
    left_out: int  # training rows of which nothing would be learned
    longest: int  # tokens of the longest training row
    as_chat: bool  # whether they are conversations, by whichever shape


@dataclass(slots=True)
class _Learned:
    """What is left of some rows once those are gone of which nothing is learned."""

    places: list[int]
    tokens: int = 0
    scored: int = 0
    longest: int = 0  # tokens of one


def read_rows(folder: Path, tokenizer: Any, settings: TrainerSettings, max_length: int, between: Callable[[], None]) -> Rows:
    """The rows of a prepared dataset, memory-mapped; `between` is called now and then where reading takes long.

    Raises Damaged for a folder that is no dataset, BadData where there is nothing to train on, InvalidRequest for settings that
    do not go with its shape, UnsupportedModel for conversations without a chat template.
    """
    splits = _open(folder)
    shape = shape_of(splits["train"].column_names)
    if shape.is_preference and settings.packing:
        raise InvalidRequest.field("trainer.packing", "does not go with preference pairs; leave it out")
    tokenise = tokeniser(shape, tokenizer, settings, max_length)
    as_chat = not isinstance(splits["train"].features[shape.columns[0]], datasets.Value)
    train, held_out = splits["train"].select_columns(list(shape.columns)), splits.get("validation")
    if held_out is not None:
        held_out = held_out.select_columns(list(shape.columns))
        if settings.eval_rows:
            held_out = held_out.select(range(min(settings.eval_rows, len(held_out))))
    if shape is TEXT:
        # The first token of a row has nothing before it to be predicted from.
        if not _has_text(train, tokenise):
            raise BadData(f"No row of {folder} has a token to learn; prepare the dataset again from files with text.")
        share, left_out = None, 0
        longest = 0 if settings.packing else _longest_text(train, tokenise, between)
        if held_out is not None and not _has_text(held_out, tokenise):
            held_out = None
    else:
        learned = _learned(train, tokenise, max_length, between)
        if not learned.places:
            raise BadData(
                f"Nothing of {folder} would be learned: no row has {shape.unit} within trainer.max_length {max_length:,}; "
                "raise it, or prepare the dataset again."
            )
        share, left_out, longest = learned.scored / learned.tokens, len(train) - len(learned.places), learned.longest
        train = train.select(learned.places)
    if held_out is not None and shape is not TEXT:
        measured = _learned(held_out, tokenise, max_length, between).places
        held_out = held_out.select(measured) if measured else None
    held_out_rows = len(held_out) if held_out is not None else 0
    if settings.packing:
        uncut = tokeniser(shape, tokenizer, settings, None)
        train = _packed(train, uncut, max_length, between)
        longest = pc.max(pc.list_value_length(train.data.column("input_ids"))).as_py()
        held_out = _packed(held_out, uncut, max_length, between) if held_out is not None else None
    else:
        train = train.with_transform(tokenise)
        held_out = held_out.with_transform(tokenise) if held_out is not None else None
    return Rows(train, held_out, held_out_rows, shape, share, left_out, longest, as_chat)


def _open(folder: Path) -> dict[str, Any]:
    try:
        splits = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder} is not a dataset that can be read; prepare it again.") from error
    if not isinstance(splits, datasets.DatasetDict) or "train" not in splits:
        raise BadData(f"{folder} has no split train; prepare the dataset again.")
    return dict(splits)


def _has_text(rows: Any, tokenise: Tokenise) -> bool:
    # The first row says so nearly always. Not by `with_transform`, which hashes the tokenizer each time.
    batches = (rows[begin : begin + _FEW] for begin in range(0, len(rows), _FEW))
    return any(len(ids) > 1 for batch in batches for ids in tokenise(batch)["input_ids"])


def _longest_text(rows: Any, tokenise: Tokenise, between: Callable[[], None]) -> int:
    """Tokens of the longest text. Texts are long in bytes where they are long in tokens, so that few need to be tokenised."""
    sizes: list[tuple[int, int]] = []
    for begin in range(0, len(rows), _SIZED_AT_ONCE):
        if begin:
            between()
        batch = rows.with_format("arrow")[begin : begin + _SIZED_AT_ONCE]
        sizes += zip(pc.binary_length(batch["text"]).to_pylist(), range(begin, begin + _SIZED_AT_ONCE), strict=False)
    places = [place for _, place in heapq.nlargest(_LONG_ROWS, sizes)]
    return max(len(ids) for ids in tokenise(rows[places])["input_ids"])


def _learned(rows: Any, tokenise: Tokenise, max_length: int, between: Callable[[], None]) -> _Learned:
    found = _Learned([])
    for begin in range(0, len(rows), _AT_ONCE):
        between()
        batch = tokenise(rows[begin : begin + _AT_ONCE])
        for place, (tokens, scored, length) in enumerate(_counts(batch, max_length), begin):
            if scored:
                found.longest = max(found.longest, length)
                found.places.append(place)
                found.tokens += tokens
                found.scored += scored
    return found


def _counts(batch: Mapping[str, Sequence[Sequence[int]]], max_length: int) -> Iterator[tuple[int, int, int]]:
    """Of each row, its tokens, those that are scored, and its length; of a pair with nothing left to compare, 0 are scored."""
    if "labels" in batch:
        for labels in batch["labels"]:
            yield len(labels), sum(label != UNSCORED for label in labels[1:]), len(labels)
        return
    for prompt, chosen, rejected in zip(*(batch[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")), strict=True):
        room = max(max_length - len(prompt), 0)
        scored = [min(len(answer), room) for answer in (chosen, rejected)]
        before, learned = min(len(prompt), max_length), sum(scored) if all(scored) and chosen != rejected else 0
        yield 2 * before + sum(scored), learned, before + max(scored)


def _packed(rows: Any, tokenise: Tokenise, max_length: int, between: Callable[[], None]) -> Any:
    def tokenise_some(batch: Mapping[str, Sequence[Any]]) -> dict[str, list[list[int]]]:
        between()
        return tokenise(batch)

    datasets.disable_progress_bars()
    # In memory: a cache file would land in the published dataset. A fingerprint of ours, since the function cannot be hashed.
    in_memory = {"keep_in_memory": True, "new_fingerprint": "tokenised"}
    tokens = rows.map(tokenise_some, batched=True, remove_columns=rows.column_names, **in_memory)
    return pack_dataset(tokens, max_length, "bfd", {"keep_in_memory": True})
