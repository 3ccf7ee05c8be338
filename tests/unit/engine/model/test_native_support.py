"""What a config of the Llama family asks for: the step computes it, or the model is computed another way, or it is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from smolora.common.paths import cache_path
from smolorad.domain import Device, Dtype
from smolorad.engine.model.native_support import decoder_of, weights_of
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import NativeModel, Part
from smolorad.engine.native.description import Experts, HeadLayout, Linear, Norm, NormKind, Rope
from smolorad.engine.native.library import Format, Library, Matrix
from smolorad.engine.native.lora import Lora
from smolorad.errors import UnsupportedModel
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, load, plain_model, spec

PROMPT, TOKENS = "The quick brown fox jumps over", 12
_SCALED: Mapping[str, Mapping[str, Any]] = {
    "linear": {"factor": 2.0},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 256},
    "longrope": {
        "factor": 2.0,
        "short_factor": [1.0] * 6,
        "long_factor": [2.0] * 6,
        "original_max_position_embeddings": 256,
    },
    "proportional": {"partial_rotary_factor": 0.5},
}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **_SCALED.get(kind, {}), **more}}


STEPPED = {
    "rope linear": ("llama", rope("linear")),
    "rope yarn": ("qwen2", rope("yarn")),
    "rope default partial": ("llama", rope("default", partial_rotary_factor=0.25)),  # which this class does not look at
    "swish": ("qwen2", {"hidden_act": "swish"}),
    "biases": ("qwen3", {"attention_bias": True}),
    "eps": ("qwen3", {"rms_norm_eps": 0.5}),
    "narrow heads": ("llama", {"head_dim": 2}),
    "keys of other models": ("llama", {"attention_multiplier": 5.0, "logits_scaling": 3.0, "residual_multiplier": 0.1}),
    "one layer slides": (
        "qwen2",
        {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True, "sliding_window": 4},
    ),
    "later layers slide": ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "rope longrope": ("llama", rope("longrope")),
    "rope longrope, a long prompt": ("llama", rope("longrope", original_max_position_embeddings=4)),
    "rope longrope, outgrown on the way": ("llama", rope("longrope", original_max_position_embeddings=16)),
    "relu": ("llama", {"hidden_act": "relu"}),
    "a Mistral that is a Ministral": (
        "mistral",
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    ),
    "all layers are full": ("qwen2", {"layer_types": ["full_attention"] * 2}),
}
COMPUTED_OTHERWISE = {
    "rope dynamic": ("llama", rope("dynamic", factor=2.0)),
    "rope proportional": ("llama", rope("proportional")),
    "layers named for sliding": ("llama", {"layer_types": ["sliding_attention"] * 2}),
    "layers in chunks": ("llama", {"layer_types": ["chunked_attention"] * 2, "attention_chunk_size": 4}),
    "not causal": ("llama", {"is_causal": False}),
    "not causal either": ("qwen3", {"is_causal": False}),
}
REFUSED = {
    **{f"rope {kind} partial": ("llama", rope(kind, partial_rotary_factor=0.25)) for kind in ("linear", "llama3", "yarn")},
    "5 heads on 2": ("llama", {"num_attention_heads": 5, "num_key_value_heads": 2, "hidden_size": 40}),
    "2 heads on 4": ("llama", {"num_attention_heads": 2, "num_key_value_heads": 4}),
    "slides without a window": ("qwen2", {"layer_types": ["sliding_attention"] * 2}),
}


def answers(folder: Path) -> str:
    """What transformers makes of the folder, greedily, without a cache."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = load(folder, "tiny", device=Device.CPU, dtype=Dtype.FLOAT32).tokenizer
    ids = torch.tensor([tokenizer(PROMPT).input_ids])
    length = ids.shape[1]
    with torch.no_grad():
        for _ in range(TOKENS):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    text: str = tokenizer.decode(ids[0, length:].tolist(), skip_special_tokens=True)
    return text


@pytest.mark.parametrize("case", [*STEPPED, *COMPUTED_OTHERWISE])
def test_whatever_computes_it_answers_as_transformers_does(case: str, tmp_path: Path) -> None:
    architecture, changes = (STEPPED | COMPUTED_OTHERWISE)[case]
    folder = tiny_model(tmp_path, architecture, **changes)
    base = load(folder, "tiny", device=Device.CPU, dtype=Dtype.FLOAT32)
    assert (base.native is not None) == (case in STEPPED)
    assert finish(begin(base, spec(PROMPT, max_tokens=TOKENS)))[0] == answers(folder)


@pytest.mark.parametrize("case", REFUSED)
def test_what_transformers_cannot_compute_either_is_refused(case: str, tmp_path: Path) -> None:
    architecture, changes = REFUSED[case]
    folder = tiny_model(tmp_path, architecture, **changes)
    with pytest.raises(UnsupportedModel, match=r"config\.json cannot be used"):
        load(folder, "tiny", device=Device.CPU, dtype=Dtype.FLOAT32)


@pytest.fixture(scope="module")
def compiled() -> Library:
    built = library(cache_path(), 1)
    assert built is not None, "these tests need a C compiler"
    return built


@pytest.mark.parametrize(
    "sizes",
    [
        {"layers": ()},
        {"hidden": 64},
        {"heads": 3},
        {"heads": 8},
        {"kv_heads": 3},
        {"kv_heads": 0},
        {"head_dim": 24},
        {"head_dim": 11},
        {"head_dim": -12},
        {"vocabulary": 401},
        {"ropes": ()},
        {"ropes": (Rope((1.0,) * 7, 1.0, False),)},
        {"ropes": (Rope((float("nan"),) * 6, 1.0, False),)},
        {"ropes": (Rope((1.0,) * 6, float("inf"), False),)},
        {"attention_scale": float("inf")},
        {"score_cap": -1.0},
        {"head": "lm_head.weight"},
        {"positions": "model.embed_tokens.bias"},
        {"slopes": (1.0,)},
        {"joint_norms": True, "heads_layout": HeadLayout(96, 24, 48, 24, 72, 24)},
        {"heads_layout": HeadLayout(96, 24, 48, 12, 84, 12)},
        {"heads_layout": HeadLayout(192, 24, 48, 12, 72, 12)},
        {"final_norm": Norm(NormKind.RMS, float("nan"), 48, ("model.norm.weight",))},
        {"final_norm": Norm(NormKind.RMS, 1e-5, 24, ("model.norm.weight",))},
        {"final_norm": Norm(NormKind.RMS, 1e-5, 48, ("model.norm.weight",), ("model.norm.weight",))},
        {"final_norm": Norm(NormKind.LAYER, 1e-5, 48, ("model.norm.weight", "model.norm.weight"))},
    ],
    ids=str,
)
def test_sizes_that_the_weights_do_not_have_reach_no_pointer(
    compiled: Library, sizes: dict[str, Any], llama_folder: Path
) -> None:
    model = plain_model(llama_folder)
    weights, decoder = weights_of(model), decoder_of(model)
    assert decoder is not None
    NativeModel(compiled, decoder, weights)
    with pytest.raises(ValueError, match="native step does not know"):
        NativeModel(compiled, dataclasses.replace(decoder, **sizes), weights)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope": 1},
        {"rope": -2},
        {"window": -1},
        {"key": None},
        {"up": None},
        {"attention_norm": Norm(NormKind.RMS, 1e-5, 24, ("model.layers.0.input_layernorm.weight",))},
        {"query_norm": Norm(NormKind.RMS, 1e-5, 48, ("model.norm.weight",))},
        {"output": Linear("model.layers.0.self_attn.o_proj", 48, 48, True)},
        {"output": Linear("model.layers.0.self_attn.o_proj", 24, 48, False)},
        {"output": Linear("model.layers.0.self_attn.o_proj", 48, 48, False, first=1)},
        {"down": Linear("model.layers.0.mlp.down_proj", 48, 96, False, transposed=True)},
        {"experts": Experts("a", "b", "c", 2, 3, 8, True)},
        {"experts": Experts("a", "b", "c", 2, 1, 8, True)},
    ],
    ids=str,
)
def test_a_layer_that_its_weights_do_not_fit_reaches_no_pointer(
    compiled: Library, changes: dict[str, Any], llama_folder: Path
) -> None:
    model = plain_model(llama_folder)
    decoder = decoder_of(model)
    assert decoder is not None
    layers = (dataclasses.replace(decoder.layers[0], **changes), *decoder.layers[1:])
    with pytest.raises(ValueError, match="native step does not know"):
        NativeModel(compiled, dataclasses.replace(decoder, layers=layers), weights_of(model))


def test_weights_of_another_kind_reach_no_pointer(compiled: Library, llama_folder: Path) -> None:
    model = plain_model(llama_folder)
    decoder, weights = decoder_of(model), weights_of(model)
    assert decoder is not None
    name = "model.layers.1.mlp.up_proj.weight"
    for changed in (
        {name: weights[name].astype(np.uint16)},
        {name: np.asfortranarray(weights[name])},
        {name: weights[name][:-1]},
        {name: weights[name][:, ::2]},
        {"model.layers.0.self_attn.sinks": np.zeros(4, np.float32)},
        {"model.layers.0.self_attn.q_proj.bias": np.zeros(47, np.float32)},
        {"model.embed_tokens.weight": weights["model.embed_tokens.weight"][:, :-1]},
    ):
        with pytest.raises(ValueError, match="native step"):
            NativeModel(compiled, decoder, weights | changed)
    for missing in (name, "model.norm.weight", "model.layers.0.input_layernorm.weight"):
        with pytest.raises(ValueError, match="native step"):
            NativeModel(compiled, decoder, {other: array for other, array in weights.items() if other != missing})


def test_a_step_of_what_does_not_go_together_is_refused(compiled: Library, llama_folder: Path) -> None:
    model = plain_model(llama_folder)
    decoder = decoder_of(model)
    assert decoder is not None
    other_decoder = dataclasses.replace(decoder, logit_scale=2.0)
    native, other = (NativeModel(compiled, one, weights_of(model)) for one in (decoder, other_decoder))
    small = native.cache(3)
    foreign = NativeModel.cache(other, 8)
    foreign.array = foreign.array[:, :, :1]
    a, b = np.zeros((2, 48), np.float32), np.zeros((48, 2), np.float32)
    names = {"model.layers.0.self_attn.q_proj": (a, b, 1.0)}
    native.step([Part([1, 2, 3], native.cache(3), Lora.of(decoder, names))])
    for part in (
        Part([], native.cache(3)),
        Part([400], native.cache(3)),
        Part([-1], native.cache(3)),
        Part([1] * 4, small),
        Part([1], foreign),
        Part([1], native.cache(3), Lora.of(other_decoder, names)),
    ):
        with pytest.raises(ValueError, match=r"below 400|no room|another model"):
            native.step([Part([1], native.cache(1)), part])
    for wrong in ((a.T, b), (a, b.T), (a[:, :-1], b), (a, b[:, :1]), (a[0], b)):
        with pytest.raises(ValueError, match="does not fit"):
            Lora.of(decoder, {"model.layers.0.self_attn.q_proj": (*wrong, 1.0)})


def test_products_of_what_does_not_go_together_are_refused(compiled: Library) -> None:
    weight = np.ones((20, 64), np.float32)
    for array in (weight.astype(np.float64), weight[:, ::2], weight.T, weight[0], weight[:0], weight[None]):
        with pytest.raises(ValueError, match="no matrix"):
            Matrix.of(array)
    with pytest.raises(ValueError, match="cannot be packed"):
        compiled.pack(weight[:, :33].copy(), Format.INT8)
    with pytest.raises(ValueError, match="cannot be packed"):
        compiled.pack(weight, Format.FP32)
    matrix = Matrix.of(weight)
    for x in (weight[:, :63], weight[:, ::2], weight.T.copy(), weight.astype(np.float64), np.float32(1.0) * weight[0, 0]):
        with pytest.raises(ValueError, match="does not go with"):
            compiled.multiply(np.asarray(x), matrix)
