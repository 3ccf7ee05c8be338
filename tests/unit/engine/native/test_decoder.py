"""The native step against transformers' own forward pass, number for number."""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolora.common.paths import cache_path
from smolorad.domain import Device, Dtype, Precision
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.native_support import decoder_of, weights_of
from smolorad.engine.model.torch_kv_cache import as_transformers
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part
from smolorad.engine.native.library import Format
from smolorad.engine.native.packed_formats import packed_format, part_of
from smolorad.engine.native.torch_arrays import array_of
from tests.tiny import tiny_model
from tests.unit.engine.kit import load, make_adapter, native_of, plain_model

KNOWN = {
    "llama": {},
    "llama-8-heads": {"num_attention_heads": 8, "num_key_value_heads": 1, "hidden_size": 64},
    "llama-untied": {"tie_word_embeddings": False},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "llama3-rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        }
    },
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
}
TOKENS = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(5)).tolist()


def step(native: NativeModel, parts: Sequence[Part]) -> Tensor:
    return torch.from_numpy(native.step(parts))


def by_steps(native: NativeModel, tokens: list[int], lora: Any = None) -> Tensor:
    """The logits after each token, one step each."""
    cache = native.cache(len(tokens))
    return torch.cat([step(native, [Part([token], cache, lora)]) for token in tokens])


def by_transformers(model: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([tokens])).logits[0].float()
    return logits


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_architecture(name: str, tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path, name.partition("-")[0].replace("llama3", "llama"), **KNOWN[name]))
    torch.testing.assert_close(by_steps(native_of(model), TOKENS), by_transformers(model, TOKENS), rtol=2e-4, atol=2e-4)


@pytest.mark.long
@pytest.mark.model
def test_quality_of_each_precision_on_the_starter(starter_model: Path) -> None:
    text = "\n".join(Path("README.md").read_text(encoding="utf-8").split("\n")[:60])
    tokens = AutoTokenizer.from_pretrained(starter_model)(text)["input_ids"][:320]
    truth = by_transformers(plain_model(starter_model), tokens).log_softmax(-1)
    model = AutoModelForCausalLM.from_pretrained(starter_model, dtype=torch.bfloat16).eval()

    def kl(logits: Tensor) -> float:
        return float(kl_div(logits.log_softmax(-1), truth, log_target=True, reduction="batchmean"))

    def perplexity(logits: Tensor) -> float:
        return math.exp(cross_entropy(logits[:-1], torch.tensor(tokens[1:])))

    plain = by_transformers(model, tokens)
    exact, int8, int4 = (in_parts(native_of(model, precision=precision), tokens) for precision in Precision)
    assert kl(exact) < kl(plain) / 2
    assert kl(int8) < 0.01
    assert kl(int4) < 0.05
    assert perplexity(int8) < perplexity(plain) * 1.01
    assert perplexity(int4) < perplexity(plain) * 1.04


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_a_packed_model_computes_with_its_rounded_weights(name: str, precision: Precision, tmp_path: Path) -> None:
    changes = {"hidden_size": 64, "tie_word_embeddings": False, "initializer_range": 0.1}
    model = plain_model(tiny_model(tmp_path, name, **changes))
    native = native_of(model, precision=precision)
    found = in_parts(native, TOKENS)
    with torch.no_grad():
        for name, linear in [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]:
            part = "head" if linear is model.lm_head else part_of(name.rpartition(".")[2])
            linear.weight.copy_(rounded(linear.weight, packed_format(precision, part)))
    torch.testing.assert_close(found, by_transformers(model, TOKENS), rtol=0.01, atol=0.02)


def rounded(weight: Tensor, format: Format) -> Tensor:
    """What a packed matrix holds, asked of its own products with the unit vectors."""
    built = library(cache_path(), 1)
    assert built is not None
    packed = built.pack(array_of(weight.contiguous()), format)
    return torch.from_numpy(built.multiply(np.eye(weight.shape[1], dtype=np.float32), packed)).T


@pytest.mark.parametrize("most", [1, 7, MAX_ROWS])
def test_a_prompt_in_parts_changes_nothing(most: int, tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path))
    tokens = (TOKENS * 3)[:100]
    torch.testing.assert_close(in_parts(native_of(model), tokens, most), by_transformers(model, tokens), rtol=2e-4, atol=2e-4)


def in_parts(native: NativeModel, tokens: list[int], most: int = MAX_ROWS) -> Tensor:
    """The logits after every token, some tokens a step."""
    cache = native.cache(len(tokens))
    parts = [tokens[i : i + most] for i in range(0, len(tokens), most)]
    return torch.cat([step(native, [Part(part, cache, every=True)]) for part in parts])


def in_bf16(folder: Path, **changes: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model(folder, **changes), dtype=torch.bfloat16).eval()


@pytest.mark.parametrize("length", [40, 71])  # enough for panels with AVX-512, and everywhere
@pytest.mark.parametrize("changes", [{}, {"intermediate_size": 90, "num_attention_heads": 8, "hidden_size": 80}], ids=str)
def test_a_prompt_of_its_own_in_bf16_is_as_near_as_one_token_after_the_other(
    changes: dict[str, Any], length: int, tmp_path: Path
) -> None:
    model, tokens = in_bf16(tmp_path, initializer_range=0.1, **changes), (TOKENS * 2)[:length]
    native = native_of(model)
    truth = by_transformers(copy.deepcopy(model).float(), tokens)[-1]
    whole, one_by_one = step(native, [Part(tokens, native.cache(length))])[0], by_steps(native, tokens)[-1]
    assert float((whole - truth).norm()) < 2 * float((one_by_one - truth).norm()) + 1e-3


def test_company_changes_no_bit_of_a_token_in_bf16(tmp_path: Path) -> None:
    native = native_of(in_bf16(tmp_path))
    caches = [native.cache(40), native.cache(40)]
    for cache in caches:
        step(native, [Part(TOKENS[:20], cache)])
    alone = step(native, [Part([7], caches[0])])
    along = step(native, [Part([7], caches[1]), Part(TOKENS[:30], native.cache(40))])
    assert torch.equal(alone[0], along[0])


def test_prompts_and_single_tokens_share_a_step(tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path))
    native = native_of(model)
    caches = [native.cache(40), native.cache(40), native.cache(40)]
    step(native, [Part(TOKENS[:9], caches[0])])
    found = step(
        native, [Part(TOKENS[9:10], caches[0]), Part(TOKENS[:30], caches[1]), Part(TOKENS[5:9], caches[2], every=True)]
    )
    whole = by_transformers(model, TOKENS)
    other = by_transformers(model, TOKENS[5:9])
    torch.testing.assert_close(found, torch.cat([whole[9:10], whole[29:30], other]), rtol=2e-4, atol=2e-4)
    assert [cache.length for cache in caches] == [10, 30, 4]


def test_it_goes_on_where_the_forward_pass_left_off_and_back(tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path))
    native = native_of(model)
    cache = native.cache(len(TOKENS))
    with torch.inference_mode():
        model(input_ids=torch.tensor([TOKENS[:20]]), past_key_values=as_transformers(cache))
        stepped = torch.cat([step(native, [Part([token], cache)]) for token in TOKENS[20:30]])
        assert cache.length == 30
        rest = model(input_ids=torch.tensor([TOKENS[30:]]), past_key_values=as_transformers(cache)).logits[0]
    torch.testing.assert_close(torch.cat([stepped, rest]), by_transformers(model, TOKENS)[20:], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_company_change_no_bit(threads: int, tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path))
    one, other = native_of(model), native_of(model, threads=threads)
    prompts = [TOKENS[i % 30 : i % 30 + 10] for i in range(MAX_ROWS)]
    alone = torch.stack([by_steps(one, prompt) for prompt in prompts], 1)
    caches = [other.cache(10) for _ in prompts]
    together = [step(other, [Part([p[at]], cache) for p, cache in zip(prompts, caches, strict=True)]) for at in range(10)]
    assert torch.equal(torch.stack(together), alone)


def test_too_many_tokens_are_refused(tmp_path: Path) -> None:
    native = native_of(plain_model(tiny_model(tmp_path)))
    with pytest.raises(ValueError, match="at most 128 tokens"):
        step(native, [Part([1] * (MAX_ROWS + 1), native.cache(MAX_ROWS + 1))])


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return load(tiny_model(tmp_path / "base", tie_word_embeddings=False), "tiny", device=Device.CPU, dtype=Dtype.FLOAT32)


@pytest.mark.parametrize(
    "lora", [{}, {"target_modules": "all-linear", "r": 7}, {"use_rslora": True}, {"layers_to_transform": [1]}]
)
def test_an_adapter(base: BaseModel, lora: dict[str, Any], tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "base", tmp_path / "adapter", **lora)
    native = AdapterRegistry(base).attach("a@1", folder).native
    assert native is not None
    peft = PeftModel.from_pretrained(plain_model(tmp_path / "base"), folder).eval()
    expected = by_transformers(peft, TOKENS)
    assert not torch.allclose(expected, by_transformers(base.model, TOKENS), atol=0.1)
    torch.testing.assert_close(by_steps(native.model, TOKENS, native.lora), expected, rtol=5e-4, atol=5e-4)


def test_sequences_with_different_adapters_share_a_step(base: BaseModel, tmp_path: Path) -> None:
    folders = [make_adapter(tmp_path / "base", tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    loras = [None, *(AdapterRegistry(base).attach("a", folder).native.lora for folder in folders)]  # type: ignore[union-attr]
    native = base.native
    assert native is not None
    caches = [native.cache(10) for _ in loras]
    together = [step(native, [Part([t], cache, lora) for cache, lora in zip(caches, loras, strict=True)]) for t in TOKENS[:10]]
    alone = torch.stack([by_steps(native, TOKENS[:10], lora) for lora in loras], 1)
    assert torch.equal(torch.stack(together), alone)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize(
    "lora", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens", "q_proj"]}]
)
def test_what_is_more_than_plain_lora_is_left_to_torch(base: BaseModel, lora: dict[str, Any], tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "base", tmp_path / "adapter", **lora)
    assert AdapterRegistry(base).attach("a@1", folder).native is None


@pytest.mark.parametrize(
    ("architecture", "changes", "dtype"),
    [
        ("bamba", {}, torch.float32),
        ("llama", {}, torch.float16),
        ("llama", {"hidden_act": "mish"}, torch.float32),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, torch.float32),
    ],
)
def test_models_it_does_not_know(architecture: str, changes: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path, architecture, **changes), dtype=dtype)
    assert decoder_of(model) is None


def test_weights_are_read_where_they_are(base: BaseModel) -> None:
    native = base.native
    assert native is not None
    before = by_steps(native, TOKENS[:5])
    with torch.no_grad():
        base.model.model.layers[0].mlp.up_proj.weight.mul_(2.0)
    assert not torch.equal(by_steps(native, TOKENS[:5]), before)


def test_it_goes_with_its_library_in_any_order(tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path))
    for _ in range(20):
        built = library(cache_path(), 2)
        assert built is not None
        decoder = decoder_of(model)
        assert decoder is not None
        native = NativeModel(built, decoder, weights_of(model))
        ring: list[object] = [native, built]
        ring.append(ring)  # so that the collector decides who goes first
        step(native, [Part(TOKENS[:3], native.cache(8))])
        del native, built, ring
    gc.collect()
