"""How far a cache can be trusted is found out when a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from smolorad.engine.model.runner import CacheSupport
from smolorad.engine.model.torch_runner import find_cache_support, forward, sample_ids
from tests.tiny import tiny_model
from tests.unit.engine.kit import fp32_base, plain_model


@pytest.mark.parametrize(
    ("architecture", "steps"),
    [
        ("llama", CacheSupport.CHUNKS),
        ("gemma2", CacheSupport.CHUNKS),
        ("falcon_h1", CacheSupport.CHUNKS),
        ("jamba", CacheSupport.SINGLE_TOKENS),  # forgets its state when several tokens come at once
        ("mamba", CacheSupport.SINGLE_TOKENS),
        ("openai-gpt", CacheSupport.NONE),  # has no cache
        ("minimax", CacheSupport.NONE),  # wants one of its own
    ],
)
def test_what_each_can_is_found(architecture: str, steps: CacheSupport, tmp_path: Path) -> None:
    assert find_cache_support(plain_model(tiny_model(tmp_path, architecture))) is steps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_fault(dtype: torch.dtype, llama_folder: Path) -> None:
    assert find_cache_support(plain_model(llama_folder).to(dtype)) is CacheSupport.CHUNKS


@pytest.mark.parametrize("architecture", ["openai-gpt", "minimax"])
def test_rounding_hides_no_missing_cache(architecture: str, tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path, architecture)).to(torch.bfloat16)
    assert find_cache_support(model) is CacheSupport.NONE


def test_one_token_that_rounds_to_another_expert_is_no_fault(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_model(llama_folder)
    compute = type(model).forward

    def another_expert(self: Any, *, past_key_values: Any = None, **more: Any) -> Any:
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        output = compute(self, past_key_values=past_key_values, **more)
        if seen == 11:
            output.logits.mul_(1.5)
        return output

    monkeypatch.setattr(type(model), "forward", another_expert)
    monkeypatch.setattr("smolorad.engine.model.torch_runner._parameters", lambda kind: frozenset({"past_key_values"}))
    assert find_cache_support(model) is CacheSupport.CHUNKS


def test_who_computes_everything_anew_is_told(llama_folder: Path, tmp_path: Path) -> None:
    assert fp32_base(llama_folder).notes == ()
    native, note = fp32_base(tiny_model(tmp_path, "openai-gpt")).notes
    assert native == (
        "It is computed by transformers' code, one answer at a time, since OpenAIGPTLMHeadModel is no family that the native "
        "decoder computes (docs/models.md has a list)."
    )
    assert note == "The cache of openai-gpt cannot be used, so the whole text is computed for every token: right, but slow."


@torch.inference_mode()
def test_logits_are_of_the_last_token_or_of_every_one(llama_folder: Path) -> None:
    model = plain_model(llama_folder)
    ids = sample_ids(model, 5)
    every = forward(model, ids, every=True)
    assert torch.equal(every, model(input_ids=ids).logits[0])
    torch.testing.assert_close(forward(model, ids), every[-1:])
