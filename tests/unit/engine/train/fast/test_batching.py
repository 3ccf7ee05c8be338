"""An optimiser step's rows, cut: every token once, every text whole, the budget kept."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from smolorad.engine.train.fast.batching import Segments, collate, cut
from smolorad.engine.train.tokenize import UNSCORED

texts = st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=40), min_size=1, max_size=9)


def rows_of(texts: list[list[int]]) -> list[dict[str, Any]]:
    return [{"input_ids": text, "labels": list(text)} for text in texts]


def texts_of(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    return [part.tolist() for part in batch["input_ids"][0].split(batch["lengths"].tolist())]


def test_one_flat_row_the_shortest_text_first() -> None:
    batch = collate([{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}, {"input_ids": [4, 5], "labels": [4, UNSCORED]}])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[4, 5, 1, 2, 3]],
        "labels": [[UNSCORED, UNSCORED, UNSCORED, 2, 3]],
        "position_ids": [[0, 1, 0, 1, 2]],
        "lengths": [2, 3],
    }


def test_a_packed_row_is_its_texts() -> None:
    packed = {"input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], "seq_lengths": [3, 2]}
    apart = rows_of([[1, 2, 3], [4, 5]])
    for name, tensor in collate([packed]).items():
        assert torch.equal(tensor, collate(apart)[name])


@given(texts=texts, budget=st.integers(1, 120))
def test_cuts(texts: list[list[int]], budget: int) -> None:
    whole = collate(rows_of(texts))
    cuts = cut(whole, budget)
    for one in cuts:
        assert len(one["lengths"]) == 1 or one["input_ids"].shape[1] <= budget
        assert one["input_ids"].shape == one["labels"].shape == one["position_ids"].shape == (1, int(one["lengths"].sum()))
    for before, after in itertools.pairwise(cuts):  # no two would go into one
        assert before["input_ids"].shape[1] + int(after["lengths"][0]) > budget
    assert sorted(text for one in cuts for text in texts_of(one)) == sorted(texts)
    assert torch.equal(torch.cat([one["labels"] for one in cuts], 1), whole["labels"])


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12).map(sorted))
def test_groups_hold_every_token_once_and_in_its_place(lengths: list[int]) -> None:
    tokens = torch.arange(sum(lengths))
    position = torch.cat([torch.arange(length) for length in lengths])
    end = 0
    for group in Segments.of(lengths).groups:
        assert group.start == end
        end = group.end
        if group.padded is None or group.valid is None:
            assert group.count * group.longest == group.end - group.start
            continue
        padded = tokens[group.start : group.end][group.padded]
        assert len(padded) == group.count * group.longest
        assert torch.equal(padded[group.valid], tokens[group.start : group.end])
        assert torch.equal(group.valid % group.longest, position[group.start : group.end])
    assert end == sum(lengths)
