"""Rows of each shape that TRL knows, as token ids: batches of columns in, batches of columns out.

The shape follows from the columns: `text`; `prompt` and `completion`; `messages`; `prompt`, `chosen` and `rejected`. A prompt
or an answer may be a text, or a list of messages. What is learned has its own id as label, what is context -100.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolorad.domain import TrainerSettings
from smolorad.engine.spans import rendered, tokens_and_answers
from smolorad.errors import BadData, UnsupportedModel

UNSCORED = -100

Batch = Mapping[str, Sequence[Any]]
Tokenise = Callable[[Batch], dict[str, list[list[int]]]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rows of a dataset are, by their columns."""

    columns: tuple[str, ...]
    unit: str  # what is learned of a row, in words

    @property
    def is_preference(self) -> bool:
        """Whether rows are pairs of a better and a worse answer."""
        return "chosen" in self.columns


TEXT = Shape(("text",), "texts")
COMPLETION = Shape(("prompt", "completion"), "completions")
CHAT = Shape(("messages",), "assistant's turns")
PREFERENCE = Shape(("prompt", "chosen", "rejected"), "preferences")


def shape_of(columns: Collection[str]) -> Shape:
    """The shape of a dataset with these columns; raises BadData where it is none that can be trained on."""
    for shape in (PREFERENCE, COMPLETION, CHAT, TEXT):
        if set(shape.columns) <= set(columns):
            return shape
    raise BadData(
        f"Nothing can be learned of a dataset with the columns {', '.join(sorted(columns))}; prepare it with text, prompt and "
        "completion, messages, or prompt, chosen and rejected."
    )


def tokeniser(shape: Shape, tokenizer: Any, settings: TrainerSettings, max_length: int | None) -> Tokenise:
    """From batches of a shape's columns to `input_ids` and `labels`, or for pairs `prompt_ids`, `chosen_ids`, `rejected_ids`.

    Rows are cut to `max_length` tokens; None does not cut, and pairs are left to TRL's collator.
    """

    def tokenise(batch: Batch) -> dict[str, list[list[int]]]:
        cells = zip(*(batch[column] for column in shape.columns), strict=True)
        rows = [dict(zip(shape.columns, row, strict=True)) for row in cells]
        return _columns(list(_tokenised(shape, tokenizer, settings, max_length, rows)))

    return tokenise


def _tokenised(
    shape: Shape, tokenizer: Any, settings: TrainerSettings, max_length: int | None, rows: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, list[int]]]:
    if shape is TEXT:  # all at once, as it is the commonest
        for ids in tokenizer([_ended(row["text"], tokenizer) for row in rows])["input_ids"] if rows else ():
            yield {"input_ids": ids[:max_length], "labels": list(ids[:max_length])}
        return
    for row in rows:
        if shape is PREFERENCE:
            yield _pair(row, tokenizer)
            continue
        if shape is CHAT:
            ids, learned = _conversation(tokenizer, row["messages"], 0, only_answers=settings.assistant_only_loss)
        else:
            ids, learned = _completion(row, tokenizer, settings)
        labels = [token if wanted else UNSCORED for token, wanted in zip(ids, learned, strict=True)]
        yield {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def _completion(row: Mapping[str, Any], tokenizer: Any, settings: TrainerSettings) -> tuple[list[int], list[bool]]:
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(prompt, str):
        first = len(prompt) if settings.completion_only_loss else 0
        return _conversation(tokenizer, [*prompt, *completion], first, only_answers=settings.completion_only_loss)
    before: list[int] = tokenizer(prompt)["input_ids"]
    ids: list[int] = tokenizer(_ended(prompt + completion, tokenizer))["input_ids"]
    # It begins where the two part: a token may reach over the border.
    begins = _in_common(before, ids) if settings.completion_only_loss else 0
    return ids, [place >= begins for place in range(len(ids))]


def _conversation(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], first: int, *, only_answers: bool
) -> tuple[list[int], list[bool]]:
    if not tokenizer.chat_template:
        raise UnsupportedModel("The model has no chat template, so it cannot learn conversations; train it on texts instead.")
    ids, answered = tokens_and_answers(tokenizer, messages, first)
    return ids, answered if only_answers else [True] * len(ids)


def _pair(row: Mapping[str, Any], tokenizer: Any) -> dict[str, list[int]]:
    if isinstance(row["prompt"], str):
        before = tokenizer(row["prompt"])["input_ids"]
        both = [tokenizer(_ended(row["prompt"] + row[name], tokenizer))["input_ids"] for name in ("chosen", "rejected")]
    else:
        before = _conversation_ids(tokenizer, row["prompt"], opened=True)
        both = [_conversation_ids(tokenizer, [*row["prompt"], *row[name]]) for name in ("chosen", "rejected")]
    begins = min(_in_common(before, ids) for ids in both)
    chosen, rejected = (ids[begins:] for ids in both)
    return {"prompt_ids": before[:begins], "chosen_ids": chosen, "rejected_ids": rejected}


def _conversation_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, opened: bool = False) -> list[int]:
    if not opened:
        return _conversation(tokenizer, messages, 0, only_answers=True)[0]
    if not tokenizer.chat_template:
        raise UnsupportedModel("The model has no chat template, so it cannot learn conversations; train it on texts instead.")
    ids: list[int] = rendered(tokenizer, messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids


def _in_common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))


def _ended(text: str, tokenizer: Any) -> str:
    end: str = tokenizer.eos_token
    return text if text.endswith(end) else text + end


def _columns(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, list[list[int]]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
