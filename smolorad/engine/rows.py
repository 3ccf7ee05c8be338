"""The rows of a training: tokenised as TRL does it, but one batch at a time when it is needed.

TRL prepares a whole dataset before the first step, in five passes over every row. That would keep generation waiting for
half a minute at 31,000 rows, and write its caches into the published dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from trl import pack_dataset

from smolorad.domain import TrainerSettings
from smolorad.errors import BadData, Damaged

TEXT = "text"


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run trains on, and what it is measured on: each row has `input_ids` and `labels`."""

    train: Any  # datasets.Dataset
    held_out: Any | None  # datasets.Dataset
    held_out_rows: int  # before packing


@dataclass(frozen=True, slots=True)
class Tokenise:
    """Texts to token ids that end in the end-of-text token; every token is scored."""

    tokenizer: Any
    max_length: int | None  # tokens; None: do not cut

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[list[int]]]:
        """`batch[TEXT]`, n texts, to n rows of `input_ids` and `labels`."""
        end = self.tokenizer.eos_token
        texts = [text if text.endswith(end) else text + end for text in batch[TEXT]]
        ids = [row[: self.max_length] for row in self.tokenizer(texts)["input_ids"]]
        return {"input_ids": ids, "labels": [list(row) for row in ids]}


def read_rows(folder: Path, tokenizer: Any, settings: TrainerSettings, max_length: int, between: Callable[[], None]) -> Rows:
    """The rows of a prepared dataset, memory-mapped; `between` is called now and then where reading takes long.

    Raises Damaged for a folder that is no dataset, BadData where there is nothing to train on.
    """
    splits = _open(folder)
    held_out = splits.get("validation")
    if held_out is not None and settings.eval_rows:
        held_out = held_out.select(range(min(settings.eval_rows, len(held_out))))
    if settings.packing:
        train = _packed(splits["train"], tokenizer, max_length, between)
        measured = _packed(held_out, tokenizer, max_length, between) if held_out else None
    else:
        tokenise = Tokenise(tokenizer, max_length)
        train = splits["train"].with_transform(tokenise)
        measured = held_out.with_transform(tokenise) if held_out else None
    # The first token of a row has nothing before it to be predicted from.
    if not any(len(row["input_ids"]) > 1 for row in train):
        raise BadData(f"No row of {folder} has a token to learn; prepare the dataset again from files with text.")
    if measured is not None and not any(len(row["input_ids"]) > 1 for row in measured):
        measured = None
    return Rows(train, measured, 0 if held_out is None or measured is None else len(held_out))


def _open(folder: Path) -> dict[str, Any]:
    try:
        splits = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder} is not a dataset that can be read; prepare it again.") from error
    if not isinstance(splits, datasets.DatasetDict) or "train" not in splits or TEXT not in splits["train"].column_names:
        raise BadData(f"{folder} has no split train with a column {TEXT}; prepare the dataset again.")
    return {name: split.select_columns([TEXT]) for name, split in splits.items()}


def _packed(rows: Any, tokenizer: Any, max_length: int, between: Callable[[], None]) -> Any:
    tokenise = Tokenise(tokenizer, None)

    def tokenise_some(batch: Mapping[str, Sequence[str]]) -> dict[str, list[list[int]]]:
        between()
        return tokenise(batch)

    datasets.disable_progress_bars()
    # In memory: a cache file would land in the published dataset. A fingerprint of ours, since the function cannot be hashed.
    in_memory = {"keep_in_memory": True, "new_fingerprint": "tokenised"}
    tokens = rows.map(tokenise_some, batched=True, remove_columns=[TEXT], **in_memory)
    return pack_dataset(tokens, max_length, "bfd", {"keep_in_memory": True})
