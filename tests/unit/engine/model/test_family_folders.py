"""A folder of every family is served without torch: its answers, its adapters, and transformers' model of the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from smolorad.domain import Dtype, Precision
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.native_support import weights_of
from smolorad.engine.native.decoder import Part
from smolorad.engine.runtime.device import Hardware
from tests.families import VARIANTS, family_folder
from tests.tiny import tiny_tokenizer
from tests.unit.engine.kit import begin, finish, generated_by_transformers, load, make_adapter, plain_model, spec

# The first variant of each class.
_FIRST = list({kind: variant for variant, (kind, _) in reversed(VARIANTS.items())}.values())
# Their files have the names and the kinds of matrices that another one's have.
_SELDOM = {
    *("arcee", "cohere 2", "ernie 4.5", "gemma", "glm", "granite", "helium", "ministral", "mistral", "nemotron", "olmo"),
    *("olmo 3", "qwen 2", "seed oss", "smollm 3", "stablelm", "vaultgemma"),
}
FAMILIES = [pytest.param(one, marks=pytest.mark.long if one in _SELDOM else ()) for one in _FIRST]
PROMPT, TOKENS = "The quick brown fox jumps over", 8


def without_torch(folder: Path, **options: Any) -> BaseModel:
    """The model as the engine loads it before torch is imported."""
    base = load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=Hardware(), **options)
    assert base.runner is None
    return base


def answer(base: BaseModel) -> list[int]:
    """The ids of a greedy answer."""
    return list(finish(begin(base, spec(PROMPT, max_tokens=TOKENS)))[1].token_ids)


# With all-linear PEFT adapts the experts, too, which is more than plain LoRA.
_WITH_EXPERTS = {"mixtral", "olmoe", "qwen 3 moe"}
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("variant", FAMILIES)
def test_a_folder(variant: str, tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", variant)
    base, plain = without_torch(folder), plain_model(folder)
    expected = generated_by_transformers(plain, tiny_tokenizer(), PROMPT, max_new_tokens=TOKENS, do_sample=False)
    assert answer(base) == expected
    ids = torch.tensor([expected])
    with torch.inference_mode():
        torch.testing.assert_close(base.model(input_ids=ids).logits, plain(input_ids=ids).logits)
    targets = _ATTENTION if variant in _WITH_EXPERTS else "all-linear"
    adapter = make_adapter(folder, tmp_path / "adapter", target_modules=targets)
    native = AdapterRegistry(base).attach("a@1", adapter).native
    assert native is not None, "plain LoRA needs no PEFT"
    with torch.inference_mode():
        logits = PeftModel.from_pretrained(plain, adapter).eval()(input_ids=ids).logits[0]
    found = torch.from_numpy(native.model.step([Part(expected, native.model.cache(len(expected)), native.lora, every=True)]))
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_packed_folder(variant: str, tmp_path: Path) -> None:
    base = without_torch(family_folder(tmp_path / "model", variant), precision=Precision.INT4)
    assert answer(base)
    assert base.native is not None
    assert base.native.nbytes < base.weight_bytes / 3


@pytest.mark.parametrize("variant", ["gpt 2", "bloom", "falcon, new", "opt"])
def test_files_without_the_prefix_of_the_body(variant: str, tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", variant)
    weights = load_file(folder / "model.safetensors")
    prefix = "model." if variant == "opt" else "transformer."
    stripped = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    save_file(stripped, folder / "model.safetensors", metadata={"format": "pt"})
    expected = generated_by_transformers(plain_model(folder), tiny_tokenizer(), PROMPT, max_new_tokens=TOKENS, do_sample=False)
    assert answer(without_torch(folder)) == expected


@pytest.mark.parametrize("variant", ["mixtral", "qwen 3 moe"])
def test_files_with_one_expert(variant: str, tmp_path: Path) -> None:
    name = "num_local_experts" if variant == "mixtral" else "num_experts"
    folder = family_folder(tmp_path / "model", variant, **{name: 1, "num_experts_per_tok": 1})
    expected = generated_by_transformers(plain_model(folder), tiny_tokenizer(), PROMPT, max_new_tokens=TOKENS, do_sample=False)
    assert answer(without_torch(folder)) == expected


def test_a_key_that_only_looks_internal(tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", "opt", _remove_final_layer_norm=True, layer_norm_elementwise_affine=False)
    expected = generated_by_transformers(plain_model(folder), tiny_tokenizer(), PROMPT, max_new_tokens=TOKENS, do_sample=False)
    assert answer(load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=Hardware())) == expected


# As configs had it before `rope_parameters`.
EARLIER_KEYS: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 5e3, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "gemma 3": {"rope_theta": 1e6, "rope_local_base_freq": 1e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gpt neox": {"rotary_pct": 0.25, "rotary_emb_base": 1000},
    "phi 3": {
        "rope_theta": 1e3,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 6,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0] * 6},
    },
}


@pytest.mark.parametrize("variant", EARLIER_KEYS)
def test_rotations_under_earlier_keys(variant: str, tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", variant)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | EARLIER_KEYS[variant]))
    expected = generated_by_transformers(plain_model(folder), tiny_tokenizer(), PROMPT, max_new_tokens=TOKENS, do_sample=False)
    assert answer(without_torch(folder)) == expected


def test_a_token_reads_only_the_experts_that_it_takes(tmp_path: Path) -> None:
    base = without_torch(family_folder(tmp_path / "model", "mixtral"))
    native = base.native
    assert native is not None
    experts = sum(array.nbytes for name, array in weights_of(base.model).items() if ".experts." in name)
    assert native.nbytes - native.token_nbytes == experts * 3 / 5  # two of five are taken
    assert base.describe(0.0).token_bytes == native.token_nbytes
    dense = without_torch(family_folder(tmp_path / "dense", "llama")).native
    assert dense is not None
    assert dense.token_nbytes == dense.nbytes
