"""An optimiser step's rows as micro-batches without padding.

TRL divides the loss by the scored tokens of the whole optimiser step, so how its rows are cut is free to choose. They are
sorted by length, so that rows of like length meet in attention, and laid end to end up to a budget of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from smolorad.engine.train.tokenize import UNSCORED

# Rows of at most this many tokens share a batch of attention, whatever padding that takes: it costs next to nothing.
_SHORT = 128
# Longer ones only where the longest of a group is at most this much longer than its shortest.
_ALIKE = 1.25
# A softmax in bf16 takes twice as long over lengths that are no multiple of this.
_EVEN = 32


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbours in the flat row that attention takes as one padded batch."""

    start: int  # their first token in the flat row
    end: int
    count: int
    longest: int  # tokens, with padding
    padded: Tensor | None  # (count * longest,): which token of the group stands where; None: no padding is needed
    valid: Tensor | None  # (end - start,): where each token of the group stands in the padded batch


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the rows of one flat row begin and end."""

    groups: tuple[Group, ...]
    starts: Tensor  # (texts + 1,), int32, on the CPU: of each text its first token in the flat row, and where the row ends
    longest: int  # tokens
    tokens: int  # of all texts

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        """The segments of rows of these lengths, the shortest first; each has a token at least."""
        if min(lengths, default=1) < 1:
            raise ValueError("a text without a token cannot be attended to")
        groups, first, start = [], 0, 0
        for last in range(1, len(lengths) + 1):
            if last == len(lengths) or lengths[last] > max(_SHORT, _ALIKE * lengths[first]):
                groups.append(_group(lengths[first:last], start, device))
                first, start = last, groups[-1].end
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(tuple(groups), starts, max(lengths, default=0), sum(lengths))


def _group(lengths: Sequence[int], start: int, device: torch.device | str) -> Group:
    count, longest, total = len(lengths), lengths[-1], sum(lengths)
    if longest <= _SHORT:
        longest = -(-longest // _EVEN) * _EVEN
    if total == count * longest:
        return Group(start, start + total, count, longest, None, None)
    begins = torch.tensor([0, *accumulate(lengths)][:-1])
    place = torch.arange(longest)
    within = place < torch.tensor(lengths)[:, None]
    # A causal token sees nothing after itself, so the padding's content changes no result.
    padded = torch.where(within, begins[:, None] + place, 0).flatten()
    return Group(start, start + total, count, longest, padded.to(device), within.flatten().nonzero().squeeze(1).to(device))


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Rows of `input_ids` and `labels`, each one text or several (`seq_lengths`), as one flat row, the shortest text first.

    Gives `input_ids`, `labels` and `position_ids`, (1, tokens) each, and `lengths`, (texts,). The first token of a text has
    nothing before it to be predicted from: its label is -100.
    """
    texts = sorted((text for row in rows for text in _texts(row)), key=lambda text: len(text[0]))
    lengths = [len(ids) for ids, _ in texts]
    return {
        "input_ids": torch.tensor([[token for ids, _ in texts for token in ids]]),
        "labels": torch.tensor([[label for _, labels in texts for label in (UNSCORED, *labels[1:])]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "lengths": torch.tensor(lengths),
    }


def _texts(row: Mapping[str, Any]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    ids, labels = row["input_ids"], row["labels"]
    begin = 0
    for length in row.get("seq_lengths") or [len(ids)]:
        if length:
            yield ids[begin : begin + length], labels[begin : begin + length]
        begin += length


def cut(step: Mapping[str, Tensor], budget: int) -> list[dict[str, Tensor]]:
    """What `collate` gave, cut between texts into micro-batches of at most `budget` tokens, or of one longer text."""
    cuts, lengths = [], step["lengths"].tolist()
    first, start, end = 0, 0, 0
    for number, length in enumerate([*lengths, budget + 1]):
        if number > first and end - start + length > budget:
            part = {name: tensor[:, start:end] for name, tensor in step.items() if name != "lengths"}
            cuts.append(part | {"lengths": step["lengths"][first:number]})
            first, start = number, end
        end += length
    return cuts
