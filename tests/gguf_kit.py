"""Writes tiny models as GGUF files, as the converter of llama.cpp writes those classes: names, orders and keys are its facts.

Nothing here is shared with the code that reads such files.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter, quants
from gguf.constants import GGMLQuantizationType as Type
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.families import EVEN, family_model
from tests.tiny import CHAT_TEMPLATE, SPECIAL, tiny_tokenizer

Arrays = dict[str, NDArray[Any]]
Keys = dict[str, Any]

_NORMAL, _CONTROL = 1, 3  # kinds of tokens

# A module's name in the body of a layer, and outside of layers.
_INNER = {
    "attn_norm": "input_layernorm ln_1 ln_mlp",
    "attn_norm_2": "ln_attn",
    "ffn_norm": "post_attention_layernorm ln_2 pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm post_mlp_layernorm",
    "post_attention_norm": "post_self_attn_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_qkv": "self_attn.qkv_proj attn.c_attn self_attention.query_key_value attention.query_key_value",
    "attn_output": "self_attn.o_proj self_attn.dense attn.c_proj self_attention.dense attention.dense",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj mlp.gate_up_proj mlp.fc1 mlp.c_fc mlp.dense_h_to_4h",
    "ffn_down": "mlp.down_proj mlp.fc2 mlp.c_proj mlp.dense_4h_to_h",
    "ffn_gate_inp": "mlp.gate",
}
_OUTER = {
    "token_embd": "embed_tokens word_embeddings embed_in wte",
    "token_embd_norm": "word_embeddings_layernorm",
    "position_embd": "wpe",
    "output_norm": "norm ln_f final_layer_norm final_layernorm",
    "output": "lm_head embed_out",
}
_NAMES = {their: our for table in (_INNER, _OUTER) for our, theirs in table.items() for their in theirs.split()}
_LAYER = re.compile(r"(?:model|transformer|gpt_neox)\.(?:layers|h)\.(\d+)\.(.*)")
_NORM_AFTER_ATTENTION = ("gemma2", "gemma3", "exaone4", "olmo2", "seed_oss")
_PARTIAL = ("chatglm", "glm4", "gptneox", "nemotron", "phi2", "phi3", "stablelm")
_WHOLE = ("arcee", "cohere2", "granite", "llama", "smollm3")  # their files have the usual count of rotated numbers, too
_NOT_SCALED = ("cohere2", "command-r", "nemotron")
# What the converter leaves out, for it is as usual.
_NOT_WRITTEN = {
    "chatglm": ("attention.key_length", "attention.value_length"),
    "falcon": ("rope.freq_base",),
    "gemma": ("rope.freq_base",),
    "gemma2": ("rope.freq_base",),
    "gpt2": ("attention.head_count_kv",),
    "gptneox": ("attention.head_count_kv", "rope.freq_base"),
    "phi2": ("rope.freq_base",),
    "stablelm": ("rope.freq_base",),
}
_HALVES = ("arcee", "granite", "llama", "olmo", "smollm3")


_tokenizer = functools.cache(tiny_tokenizer)


@dataclass(frozen=True)
class Case:
    """A variant of tests/families.py, changed to what a GGUF file can say, and how it is written."""

    variant: str
    architecture: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    keys: Callable[[Any], Keys] = lambda config: {}
    joined: bool = False  # queries, keys and values in one tensor; experts' gate and up, too

    def model(self, **changes: Any) -> Any:
        """The model in fp32."""
        ends = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0, "vocab_size": len(_tokenizer())}
        return family_model(self.variant, EVEN, **{**ends, **self.changes, **changes})


def _window(config: Any) -> Keys:
    return {"attention.sliding_window": config.sliding_window or 0}


def _pattern(config: Any) -> Keys:
    pattern = [kind == "sliding_attention" for kind in config.layer_types]
    return _window(config) | {"attention.sliding_window_pattern": pattern}


def _caps(config: Any) -> Keys:
    found = {name: getattr(config, name, None) for name in ("attn_logit_softcapping", "final_logit_softcapping")}
    return _window(config) | {name: value for name, value in found.items() if value is not None}


def _moe(config: Any) -> Keys:
    count = getattr(config, "num_experts", None) or config.num_local_experts
    return {"expert_count": count, "expert_used_count": config.num_experts_per_tok}


def _wide_moe(config: Any) -> Keys:
    return _moe(config) | {"expert_feed_forward_length": config.moe_intermediate_size}


def _granite(config: Any) -> Keys:
    return {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }


def _logit_scale(config: Any) -> Keys:
    return {"logit_scale": config.logit_scale}


def _parallel(config: Any) -> Keys:
    return {"use_parallel_residual": config.use_parallel_residual}


_ROPE = {"rope_theta": 1e4}
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_SOME = {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.375, **_ROPE}}  # files have whole numbers
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, **_ROPE}
_FULL, _SLIDING = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, {"rope_type": "default", **_ROPE}
_GEMMA_3 = {"query_pre_attn_scalar": 16, "rope_parameters": {"full_attention": _FULL, "sliding_attention": _SLIDING}}
_LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.5, 1.6, 2.0], "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}
_LONG |= {"factor": 4.0, "original_max_position_embeddings": 128, "partial_rotary_factor": 0.75, **_ROPE}

CASES = (
    Case("arcee", "arcee"),
    Case("bloom", "bloom", {"seq_length": 512}),
    Case("cohere", "command-r", keys=_logit_scale),
    Case("cohere, q and k normed", "command-r", keys=_logit_scale),
    Case("cohere 2", "cohere2", keys=lambda c: _window(c) | _logit_scale(c), changes={"num_hidden_layers": 4}),
    Case("ernie 4.5", "ernie4_5"),
    Case("exaone 4", "exaone4", keys=_pattern),
    Case("exaone 4 without windows", "exaone4"),
    Case("falcon, new", "falcon"),
    Case("falcon, one key", "falcon"),
    Case("gemma", "gemma"),
    Case("gemma 2", "gemma2", {"query_pre_attn_scalar": 16}, _caps),
    Case("gemma 3", "gemma3", _GEMMA_3 | {"num_hidden_layers": 7}, _caps),
    Case("gemma 3, capped", "gemma3", {"query_pre_attn_scalar": 16, "layer_types": None}, _caps),
    Case("glm", "chatglm", _SOME),
    Case("glm 4", "glm4"),
    Case("gpt 2", "gpt2"),
    Case("gpt neox", "gptneox", _SOME, _parallel),
    Case("gpt neox in sequence", "gptneox", {"hidden_act": "gelu"}, _parallel),
    Case("granite", "granite", keys=_granite),
    Case("llama", "llama", {"rope_parameters": _YARN}),
    Case("llama", "llama", joined=True),
    Case("llama, tied", "llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, **_LLAMA_3}}),
    Case("llama, tied", "llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, **_ROPE}}),
    Case("mistral", "llama", {"sliding_window": None}),
    Case("mixtral", "llama", {"sliding_window": None}, _moe),
    Case("nemotron", "nemotron"),
    Case("olmo", "olmo", {"clip_qkv": 2.0}, lambda c: {"attention.clamp_kqv": c.clip_qkv}),
    Case("olmo 2", "olmo2"),
    Case("olmo 3", "olmo2", keys=_pattern),
    Case("olmoe", "olmoe", keys=_moe),
    Case("phi", "phi2", {"qk_layernorm": False, **_SOME}),
    Case("phi 3", "phi3", keys=_window),
    Case("phi 3, windows", "phi3", {"rope_parameters": _LONG, "original_max_position_embeddings": 128}, _window),
    Case("qwen 2", "qwen2"),
    Case("qwen 2", "qwen2", joined=True),
    Case("qwen 3", "qwen3"),
    Case("qwen 3, windows", "qwen3", {"use_sliding_window": False, "sliding_window": None, "layer_types": None}),
    Case("qwen 3 moe, normed", "qwen3moe", keys=_wide_moe),
    Case("qwen 3 moe, normed", "qwen3moe", keys=_wide_moe, joined=True),
    Case("seed oss", "seed_oss"),
    Case("smollm 3", "smollm3", {"no_rope_layers": [1, 1, 1, 0, 1], "num_hidden_layers": 5}),
    Case("stablelm", "stablelm", keys=_parallel),
    Case("stablelm in parallel", "stablelm", keys=_parallel),
    Case("starcoder 2", "starcoder2", {"sliding_window": 4096}),
    Case("starcoder 2 without biases", "starcoder2", {"sliding_window": 4096}),
)


def keys_of(case: Case, config: Any) -> Keys:
    """The keys of the architecture."""
    rms = getattr(config, "rms_norm_eps", None)
    eps = [getattr(config, name, None) for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")]
    sizes = {
        "block_count": config.num_hidden_layers,
        "context_length": getattr(config, "max_position_embeddings", None) or 512,
        "embedding_length": config.hidden_size,
        "feed_forward_length": getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_rms_epsilon": rms,
        "attention.layer_norm_epsilon": 1e-5 if case.architecture == "olmo" else next((e for e in eps if e is not None), None),
        "attention.head_count_kv": _key_heads(config),
    }
    if (width := getattr(config, "head_dim", None)) is not None and case.architecture not in ("falcon", "phi3"):
        sizes |= {"attention.key_length": width, "attention.value_length": width}
    found = sizes | _rope_keys(case, config) | case.keys(config)
    absent = _NOT_WRITTEN.get(case.architecture, ())
    return {name: value for name, value in found.items() if value is not None and name not in absent}


def _key_heads(config: Any) -> int:
    if config.model_type == "falcon":
        return 1 if config.multi_query and not config.new_decoder_architecture else int(config.num_kv_heads)
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _rope_keys(case: Case, config: Any) -> Keys:
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return {}
    keys: Keys = {}
    if "full_attention" in rope:
        keys["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    keys["rope.freq_base"] = rope["rope_theta"]
    if case.architecture in _NOT_SCALED:
        keys["rope.scaling.type"] = "none"
    if case.architecture in (*_PARTIAL, *_WHOLE):
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        keys["rope.dimension_count"] = int(width * rope.get("partial_rotary_factor", 1.0))
    match rope["rope_type"]:
        case "linear" | "yarn" as kind:
            keys |= {"rope.scaling.type": kind, "rope.scaling.factor": rope["factor"]}
            keys["rope.scaling.original_context_length"] = rope.get("original_max_position_embeddings")
        case "longrope":
            keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
            longer = config.max_position_embeddings / rope["original_max_position_embeddings"]
            keys["rope.scaling.attn_factor"] = math.sqrt(
                1 + math.log(longer) / math.log(rope["original_max_position_embeddings"])
            )
    return keys


def tensors_of(case: Case, model: Any) -> Arrays:
    """The tensors of the file, in fp32, rows first."""
    arrays: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for ours, value in _written(case, model.config, name, parameter.detach()):
            arrays[ours] = value
    for kind in ("attn_q_norm", "attn_k_norm"):  # of single heads, where they are there
        for layer in range(model.config.num_hidden_layers):
            heads = [arrays.pop(name) for name in list(arrays) if name.startswith(f"blk.{layer}.{kind}.weight.")]
            if heads:
                arrays[f"blk.{layer}.{kind}.weight"] = torch.stack(heads)
    if case.joined:
        _join(arrays)
    return {name: value.contiguous().numpy() for name, value in (arrays | _factors(model.config)).items()}


def _written(case: Case, config: Any, name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    layer = _LAYER.fullmatch(name)
    prefix, rest = (f"blk.{layer[1]}.", layer[2]) if layer else ("", name.split(".", 1)[1] if "." in name else name)
    if rest.startswith("mlp.experts."):
        yield from _experts(prefix, rest, value)
        return
    if head := re.fullmatch(r"self_attn\.([qk])_layernorm\.norms\.(\d+)\.weight", rest):
        yield f"{prefix}attn_{head[1]}_norm.weight.{int(head[2]):03}", value
        return
    module, _, suffix = (rest if layer or name.startswith(("model.", "transformer.", "gpt_neox.")) else name).rpartition(".")
    ours = _NAMES[module]
    if module == "post_attention_layernorm" and case.architecture in _NORM_AFTER_ATTENTION:
        ours = "post_attention_norm"
    yield f"{prefix}{ours}.{suffix}", _reordered(case, config, ours, suffix, module, value)


def _reordered(case: Case, config: Any, ours: str, suffix: str, module: str, value: Tensor) -> Tensor:
    heads = config.num_attention_heads
    if suffix == "weight" and "norm" in ours and case.architecture in ("gemma", "gemma2", "gemma3", "nemotron"):
        return value + 1
    if case.architecture == "gpt2" and module.rpartition(".")[2].startswith("c_") and suffix == "weight":
        return value.T
    if case.architecture in _HALVES and ours in ("attn_q", "attn_k"):
        return _interleaved(value, heads if ours == "attn_q" else config.num_key_value_heads)
    if ours == "attn_qkv" and case.architecture in ("bloom", "falcon", "gptneox"):
        return _ungrouped(value, heads, _key_heads(config))
    return value


def _interleaved(value: Tensor, heads: int) -> Tensor:
    """Row 0 of each head, the first of its second half, row 1, and so on."""
    halves = value.view(heads, 2, -1, *value.shape[1:])
    return torch.stack([halves[:, 0], halves[:, 1]], dim=2).reshape(value.shape)


def _ungrouped(value: Tensor, heads: int, keys: int) -> Tensor:
    """All queries, all keys, all values."""
    width = len(value) // (heads + 2 * keys)
    groups = value.view(keys, heads // keys + 2, width, -1)
    return torch.cat([groups[:, :-2].flatten(0, 2), groups[:, -2].flatten(0, 1), groups[:, -1].flatten(0, 1)]).view(value.shape)


def _experts(prefix: str, rest: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if rest == "mlp.experts.down_proj":
        yield f"{prefix}ffn_down_exps.weight", value
        return
    gate, up = value.chunk(2, dim=1)
    yield f"{prefix}ffn_gate_exps.weight", gate
    yield f"{prefix}ffn_up_exps.weight", up


def _join(arrays: dict[str, Tensor]) -> None:
    for name in [name for name in arrays if ".attn_q." in name]:
        parts = [arrays.pop(name.replace("attn_q", kind)) for kind in ("attn_q", "attn_k", "attn_v")]
        arrays[name.replace("attn_q", "attn_qkv")] = torch.cat(parts)
    for name in [name for name in arrays if ".ffn_gate_exps." in name]:
        parts = [arrays.pop(name.replace("gate", kind)) for kind in ("gate", "up")]
        arrays[name.replace("gate", "gate_up")] = torch.cat(parts, dim=1)


def _factors(config: Any) -> dict[str, Tensor]:
    rope = getattr(config, "rope_parameters", None) or {}
    match rope.get("rope_type"):
        case "llama3":
            usual = rope["rope_theta"] ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
            return {"rope_freqs.weight": usual / ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]}
        case "longrope":
            return {f"rope_factors_{kind}.weight": torch.tensor(rope[f"{kind}_factor"]) for kind in ("long", "short")}
    return {}


@functools.cache
def tokenizer_keys() -> Keys:
    """The tiny tokenizer, as a byte-level BPE is written."""
    tokenizer = _tokenizer()
    vocabulary = sorted(tokenizer.get_vocab(), key=lambda token: tokenizer.get_vocab()[token])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [_CONTROL if token in SPECIAL else _NORMAL for token in vocabulary],
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def write_file(
    path: Path,
    architecture: str,
    keys: Keys,
    arrays: Arrays,
    formats: Mapping[str, Type] | None = None,
    raw: Mapping[str, Type] | None = None,
) -> Path:
    """Writes a file. `keys` whose names have no other beginning get the architecture's.

    `formats` names the tensors that are quantised, `raw` those whose arrays are the bytes of a format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    for name, value in keys.items():
        if name == "general.alignment":
            writer.add_custom_alignment(value)
            continue
        full = name if name.startswith(("tokenizer.", "general.", "split.")) else f"{architecture}.{name}"
        match value:
            case bool():
                writer.add_bool(full, value)
            case int():
                writer.add_uint32(full, value)
            case float():
                writer.add_float32(full, value)
            case str():
                writer.add_string(full, value)
            case _:
                writer.add_array(full, value)
    for name, array in arrays.items():
        if (kind := (formats or {}).get(name)) is not None:
            writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array, raw_dtype=(raw or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_case(path: Path, case: Case, model: Any, formats: Mapping[str, Type] | None = None) -> Path:
    """Writes a model as GGUF, with the tiny tokenizer."""
    return write_file(path, case.architecture, keys_of(case, model.config) | tokenizer_keys(), tensors_of(case, model), formats)
