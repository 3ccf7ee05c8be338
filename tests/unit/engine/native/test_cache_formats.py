"""KV caches in BF16 and INT8: the step computes what transformers computes with keys and values so rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from smolorad.domain import KvDtype, Precision
from smolorad.engine.native.decoder import MAX_ROWS, Part
from tests.families import EVEN, ODD, family_model
from tests.unit.engine.kit import native_of
from tests.unit.engine.native.test_blocks import TOKENS, in_parts, model_of

GROUP = 32
SMALLEST = 1.0 / float(np.finfo(np.float32).max)


def rounded_up(scale: Tensor) -> Tensor:
    """The bf16 nearest to each number that is not smaller."""
    near = scale.to(torch.bfloat16)
    bits = near.view(torch.int16).clone()
    bits[near.float() < scale] += 1
    return bits.view(torch.bfloat16).float()


def as_int8(x: Tensor) -> Tensor:
    """Numbers of heads (..., head_dim) in INT8: each group of 32 has a scale."""
    groups = []
    for group in x.split(GROUP, dim=-1):
        scale = rounded_up(group.abs().amax(-1, keepdim=True) / 127)
        usable = torch.where(scale > SMALLEST, scale, torch.ones_like(scale))
        groups.append(torch.where(scale > SMALLEST, torch.round(group * (1 / usable)) * usable, torch.zeros_like(group)))
    return torch.cat(groups, dim=-1)


class RoundedCache(DynamicCache):
    def __init__(self, kv_dtype: KvDtype) -> None:
        super().__init__()
        self._round = as_int8 if kv_dtype is KvDtype.INT8 else lambda x: x.bfloat16().float()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().update(self._round(key_states), self._round(value_states), *args, **kwargs)


def rounded_logits(model: Any, kv_dtype: KvDtype, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=torch.tensor([tokens]), past_key_values=RoundedCache(kv_dtype)).logits[0]
    return found


@pytest.mark.parametrize("kv_dtype", KvDtype)
@pytest.mark.parametrize("name", ["llama", "llama-one-key-head", "gpt_neox"])
def test_logits_are_those_of_rounded_keys_and_values(name: str, kv_dtype: KvDtype, tmp_path: Path) -> None:
    model = model_of(tmp_path, name)
    expected = rounded_logits(model, kv_dtype, TOKENS)
    exact = torch.from_numpy(in_parts(native_of(model), MAX_ROWS))
    for most in (1, 9, MAX_ROWS):
        found = torch.from_numpy(in_parts(native_of(model, kv_dtype=kv_dtype), most))
        # With AVX-512's products of bf16, queries are rounded as well.
        assert_rounded(found, expected, exact, most=0.2 if kv_dtype is KvDtype.INT8 else 2.0)


def assert_rounded(found: Tensor, expected: Tensor, exact: Tensor, most: float = 0.2) -> None:
    """Sums in another order round a number here and there to its other neighbour: far less than rounding itself changes."""
    effect = (exact - expected).square().mean().sqrt()
    assert effect > 1e-4, "the cache was not rounded"
    assert (found - expected).square().mean().sqrt() < most * effect


@pytest.mark.parametrize("variant", ["gemma 3", "cohere", "falcon, one key", "phi", "gpt 2", "qwen 3"])
@pytest.mark.parametrize("sizes", [EVEN, ODD], ids=["even", "odd"])
def test_every_kind_of_heads(variant: str, sizes: Any) -> None:
    """Heads of 10 and 16 numbers, which are no whole groups; windows; fused layers; norms of queries and keys."""
    model = family_model(variant, sizes)
    tokens = [token % 97 for token in TOKENS[:60]]
    native = native_of(model, kv_dtype=KvDtype.INT8)
    found = native.step([Part(tokens, native.cache(64), every=True)])
    unrounded = native_of(model)
    exact = unrounded.step([Part(tokens, unrounded.cache(64), every=True)])
    assert_rounded(torch.from_numpy(found), rounded_logits(model, KvDtype.INT8, tokens), torch.from_numpy(exact))


@pytest.mark.parametrize("kv_dtype", KvDtype)
def test_neither_company_nor_threads_change_a_bit(kv_dtype: KvDtype, tmp_path: Path) -> None:
    model = model_of(tmp_path, "llama", hidden_size=64, intermediate_size=96, head_dim=16)
    whole = in_parts(native_of(model, Precision.INT8, threads=1, kv_dtype=kv_dtype), MAX_ROWS)
    for threads, most in ((1, 1), (2, 5), (3, 40)):
        assert np.array_equal(in_parts(native_of(model, Precision.INT8, threads=threads, kv_dtype=kv_dtype), most), whole)
    native = native_of(model, Precision.INT8, kv_dtype=kv_dtype)
    first, other = native.cache(len(TOKENS)), native.cache(40)
    for at in range(0, 40, 4):
        both = native.step([Part(TOKENS[at : at + 4], first, every=True), Part(TOKENS[at + 7 : at + 9], other)])
        assert np.array_equal(both[:4], whole[at : at + 4])


def test_bytes_and_prefixes(tmp_path: Path) -> None:
    """INT8 takes 8.5 bits a number; a prefix is copied with its scales."""
    native = native_of(model_of(tmp_path, "llama", head_dim=32), kv_dtype=KvDtype.INT8)
    decoder = native.decoder
    cache = native.cache(300)
    assert native.cache_token_nbytes == cache.nbytes_of(1) == 2 * len(decoder.layers) * decoder.kv_heads * 34
    assert not native.shares_cache, "torch cannot read it"
    assert native.takes_prompts
    native.step([Part(TOKENS[:100], cache)])
    copy = native.cache(300)
    copy.begin_with(cache, 100)
    ends = [native.step([Part(TOKENS[100:104], one)]) for one in (cache, copy)]
    assert np.array_equal(*ends)
    with pytest.raises(ValueError, match="another model's"):
        native.step([Part([1], native_of(model_of(tmp_path / "b", "llama", head_dim=32)).cache(8))])


def test_numbers_that_are_not_finite_stay_so(tmp_path: Path) -> None:
    """A value that overflowed is NaN in INT8, never a finite number; tokens before it do not see it."""
    model = model_of(tmp_path, "llama")
    native = native_of(model, kv_dtype=KvDtype.INT8)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = torch.inf
    cache = native.cache(16)
    logits = native.step([Part([1, 2, 7, 3], cache, every=True)])
    text = np.delete(logits, 7, axis=1)  # the tied head has the number, too
    assert np.isfinite(text[:2]).all()
    assert np.isnan(text[3]).all()
