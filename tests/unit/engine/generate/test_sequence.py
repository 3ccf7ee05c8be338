"""Greedy answers equal `transformers.generate`, token for token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from smolorad.domain import Device, Dtype, FinishReason, Precision
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.generate import sequence
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native import decoder
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part
from smolorad.engine.native.library import Library
from smolorad.errors import NotFinite
from tests.tiny import ARCHITECTURES, OTHER_ARCHITECTURES, tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, generated_by_transformers, load, make_adapter, plain_model, spec

PROMPTS = ("A", "The quick brown fox", "Да, и ещё немного. 日本語も少し 🙂", "one two three " * 20)
# Few, for fp32 is slow; the whole job's test has twenty, through the daemon.
STARTER_PROMPTS = ("The daemon keeps", "def fibonacci(n):", "Question: Why is the sky blue?\nAnswer:")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_transformers(architecture: str, tmp_path: Path) -> None:
    base, model = fp32_base(tiny_model(tmp_path, architecture)), plain_model(tmp_path)
    for prompt in PROMPTS:
        _, outcome = finish(begin(base, spec(prompt, max_tokens=48)))
        expected = generated_by_transformers(model, base.tokenizer, prompt, max_new_tokens=48, do_sample=False)
        assert list(outcome.token_ids) == expected, prompt


@pytest.mark.parametrize("architecture", OTHER_ARCHITECTURES)
def test_greedy_equals_transformers_whatever_the_cache_can(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "PREFILL_CHUNK", 7)
    base, model, prefixes = fp32_base(tiny_model(tmp_path, architecture)), plain_model(tmp_path), PrefixCache()
    for prompt in [*PROMPTS[1:], PROMPTS[-1] + "four"]:
        _, outcome = finish(begin(base, spec(prompt, max_tokens=12), prefixes=prefixes))
        expected = generated_by_transformers(model, base.tokenizer, prompt, max_new_tokens=12, do_sample=False)
        assert list(outcome.token_ids) == expected, prompt


@pytest.mark.parametrize("architecture", ["mamba", "openai-gpt"])
def test_an_adapter_s_cache_can_what_its_base_s_can(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    monkeypatch.setattr(sequence, "PREFILL_CHUNK", 7)
    folder = tiny_model(tmp_path / "base", architecture)
    targets = {"mamba": ["in_proj"], "openai-gpt": ["c_attn"]}[architecture]
    written = make_adapter(folder, tmp_path / "adapter", target_modules=targets, fan_in_fan_out=architecture == "openai-gpt")
    base = fp32_base(folder)
    adapter = AdapterRegistry(base).attach("a@1", written)
    _, outcome = finish(begin(base, spec(PROMPTS[3], max_tokens=12), adapter))
    wrapped = PeftModel.from_pretrained(plain_model(folder), written).eval()
    assert list(outcome.token_ids) == generated_by_transformers(
        wrapped, base.tokenizer, PROMPTS[3], max_new_tokens=12, do_sample=False
    )


def test_prompt_in_chunks_changes_nothing(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    base = dataclasses.replace(llama, native=None)
    whole = finish(begin(base, spec(PROMPTS[3], max_tokens=24)))
    monkeypatch.setattr(sequence, "PREFILL_CHUNK", 7)
    answer = begin(base, spec(PROMPTS[3], max_tokens=24))
    assert answer.step() == ""
    assert answer.step() == ""
    assert finish(answer)[1].token_ids == whole[1].token_ids


@pytest.mark.parametrize(("many", "accelerate"), [(0, True), (0, False), (16, True)])
@pytest.mark.parametrize("precision", [Precision.EXACT, Precision.INT8])
def test_who_computes_a_long_prompt(
    precision: Precision, many: int, accelerate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Library, "min_prefill_tokens", lambda self, format: many)  # whatever this machine has
    monkeypatch.setattr(decoder, "ACCELERATE", accelerate)
    folder = tiny_model(tmp_path, hidden_size=64)
    base = load(folder, "tiny", device=Device.CPU, dtype=Dtype.FLOAT32, precision=precision)
    taken: list[int] = []
    compute = NativeModel.step

    def watched(self: NativeModel, parts: Sequence[Part]) -> NDArray[np.float32]:
        taken.extend(len(part.tokens) for part in parts)
        return compute(self, parts)

    monkeypatch.setattr(NativeModel, "step", watched)
    answer = begin(base, spec(PROMPTS[3], max_tokens=3))
    by_torch = precision is Precision.EXACT and accelerate and not many
    alone = by_torch or (precision is Precision.EXACT and many > 0)
    assert (answer.native is None) is alone  # a step of its own, or in company
    usage = finish(answer)[1].usage
    assert usage.prompt_tokens > MAX_ROWS
    assert sum(taken) == (0 if by_torch else usage.prompt_tokens) + usage.completion_tokens - 1
    assert max(taken) == (1 if by_torch else MAX_ROWS)


def test_ends_at_the_end_token_of_the_generation_config(llama_folder: Path, llama: BaseModel) -> None:
    ids = finish(begin(llama, spec("A", max_tokens=20)))[1].token_ids
    model = plain_model(llama_folder)
    # Any token can be the end: take the one that came third.
    base = dataclasses.replace(llama, end_ids=frozenset({ids[2]}))
    text, outcome = finish(begin(base, spec("A", max_tokens=20)))
    expected = generated_by_transformers(
        model, llama.tokenizer, "A", max_new_tokens=20, do_sample=False, eos_token_id=ids[2], pad_token_id=0
    )
    assert list(outcome.token_ids) == expected
    assert outcome.finish_reason is FinishReason.STOP
    assert text == llama.tokenizer.decode(ids[:2], skip_special_tokens=True)


def test_logits_that_stay_not_finite_fail_after_one_more_try(llama_folder: Path) -> None:
    base = fp32_base(llama_folder)
    with torch.no_grad():
        base.model.get_output_embeddings().weight[3, 0] = float("nan")
    answer = begin(base, spec("A"))
    assert answer.step() == ""
    with pytest.raises(NotFinite, match="float32"):
        answer.step()


def test_a_passing_fault_in_the_cache_is_cured(llama: BaseModel) -> None:
    expected = finish(begin(llama, spec("The quick", max_tokens=12)))[1].token_ids
    answer = begin(llama, spec("The quick", max_tokens=12))
    for _ in range(5):
        answer.step()
    answer._sequence._cache.array[0, 0] = np.nan
    assert finish(answer)[1].token_ids == expected


@pytest.mark.long
@pytest.mark.model
def test_starter_greedy_equals_transformers_for_base_and_adapter(starter_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    base = fp32_base(starter_model)
    folder = make_adapter(starter_model, tmp_path / "adapter", r=8)
    adapter = AdapterRegistry(base).attach("random@1", folder)
    plain = plain_model(starter_model)
    greedy = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    for prompt in STARTER_PROMPTS:
        ours = finish(begin(base, spec(prompt, max_tokens=24)))[1].token_ids
        assert list(ours) == generated_by_transformers(plain, base.tokenizer, prompt, **greedy), prompt
    wrapped = PeftModel.from_pretrained(plain, folder).eval()
    differs = 0
    for prompt in STARTER_PROMPTS:
        ours = finish(begin(base, spec(prompt, max_tokens=24), adapter))[1].token_ids
        assert list(ours) == generated_by_transformers(wrapped, base.tokenizer, prompt, **greedy), prompt
        differs += ours != finish(begin(base, spec(prompt, max_tokens=4)))[1].token_ids
    assert differs == len(STARTER_PROMPTS)
