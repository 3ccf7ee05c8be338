"""Compares a model's logits on a device with the same model's on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from smolorad.domain import Dtype
from smolorad.engine.device_check.difference import TOLERANCE, difference
from smolorad.engine.model.runner import CacheSupport
from smolorad.engine.model.torch_runner import forward, sample_ids

PROMPT_TOKENS = 37  # no multiple of a kernel's tile
GREEDY_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Trace:
    """A model's greedy tokens, and the logits (tokens, vocabulary) they were chosen from."""

    tokens: Tensor
    logits: Tensor
    cache_support: CacheSupport


@torch.inference_mode()
def trace(model: Any, cache_support: CacheSupport = CacheSupport.CHUNKS, *, follow: Tensor | None = None) -> Trace:
    """Greedy tokens, in the steps that the cache supports; with `follow`, the logits for those tokens instead."""
    ids = sample_ids(model, PROMPT_TOKENS)
    cache = DynamicCache(config=model.config) if cache_support is not CacheSupport.NONE else None
    computed = 0
    rows: list[Tensor] = []
    for step in range(GREEDY_TOKENS):
        rows.append(forward(model, ids[:, computed:], cache, computed))
        computed = ids.shape[1] if cache is not None else 0
        token = rows[-1].argmax(dim=1) if follow is None else follow[step : step + 1]
        ids = torch.cat([ids, token[None]], dim=1)
    return Trace(ids[0, PROMPT_TOKENS:], torch.cat(rows), cache_support)


def logits_fault(model: Any, dtype: Dtype, expected: Trace) -> str:
    """How a model on its device differs from the same model's trace on the CPU; empty if it does not."""
    got = trace(model, expected.cache_support, follow=expected.tokens)
    for step, (row, expected_row) in enumerate(zip(got.logits, expected.logits, strict=True)):
        apart = difference(row, expected_row)
        if not apart <= TOLERANCE[dtype]:
            return f"the logits of token {step + 1} differ from the CPU's by {apart:.2g} of their largest value"
    return ""
