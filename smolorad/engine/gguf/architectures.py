"""The table of GGUF's architectures: which class of transformers each one is, and what its config is made of.

Facts are those of llama.cpp's converter (what is written) and of its graphs (what is meant where nothing is written). An entry
says where an architecture differs from Llama; `layout.py` finds the tensors by the names that the gguf library has for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from smolorad.engine.gguf.metadata import Metadata

Fields = dict[str, Any]
Maker = Callable[[Metadata], Fields]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How an architecture of GGUF becomes a class of transformers."""

    model_type: str
    class_name: str
    fields: tuple[Maker, ...]
    halves: bool = False  # q's and k's rotated pairs lie side by side in the file, in two halves in transformers
    norm_offset: float = 0.0  # what the file's norms have more than transformers' weights
    transposed: bool = False  # transformers keeps the linear layers' weights transposed


def _sizes(m: Metadata) -> Fields:
    return {
        "hidden_size": m.count("embedding_length"),
        "num_hidden_layers": m.count("block_count"),
        "num_attention_heads": m.count("attention.head_count"),
        "intermediate_size": m.count("feed_forward_length"),
        "max_position_embeddings": m.count("context_length"),
    }


def _grouped(m: Metadata) -> Fields:
    return {"num_key_value_heads": m.whole("attention.head_count_kv", m.whole("attention.head_count"))}


def _head_dim(m: Metadata) -> Fields:
    return {"head_dim": head_dim(m)}


def head_dim(m: Metadata) -> int:
    """The width of a head."""
    width = m.whole("attention.key_length", m.whole("embedding_length") // m.count("attention.head_count"))
    if not width:
        raise m.damaged("attention.key_length" if m.optional("attention.key_length") is not None else "embedding_length")
    return width


def _rms(name: str = "rms_norm_eps") -> Maker:
    return lambda m: {name: m.real("attention.layer_norm_rms_epsilon")}


def _layer_norm(name: str) -> Maker:
    return lambda m: {name: m.real("attention.layer_norm_epsilon")}


def _if_there(name: str, *tensors: str) -> Maker:
    return lambda m: {name: any(m.has(tensor) for tensor in tensors)}


_QUERIES = ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias")  # alone, or in one tensor with keys and values
_ATTENTION_BIAS = _if_there("attention_bias", *_QUERIES)
_MLP_BIAS = _if_there("mlp_bias", "blk.0.ffn_up.bias")
_BIAS = _if_there("use_bias", *_QUERIES)
_QKV_BIAS = _if_there("use_qkv_bias", *_QUERIES)


def _normed_heads(m: Metadata) -> Fields:
    """Cohere and StableLM name it differently."""
    normed = m.has("blk.0.attn_q_norm.weight")
    return {"use_qk_norm": normed} if m.architecture == "command-r" else {"qk_layernorm": normed}


def _parallel(m: Metadata) -> Fields:
    return {"use_parallel_residual": bool(m.optional("use_parallel_residual"))}


def _window(m: Metadata) -> Fields:
    return {"sliding_window": m.whole("attention.sliding_window", 0) or None}


def _gemma_2_window(m: Metadata) -> Fields:
    """The first files did not say it."""
    return {"sliding_window": m.whole("attention.sliding_window", 4096)}


def _gemma_3_window(m: Metadata) -> Fields:
    """Without one all layers see everything; the class wants a number all the same."""
    if window := m.whole("attention.sliding_window", 0):
        return {"sliding_window": window}
    return _all_full(m) | {"sliding_window": m.count("context_length")}


def _needed_window(m: Metadata) -> Fields:
    return {"sliding_window": m.count("attention.sliding_window")}


def _window_layers(m: Metadata) -> Fields:
    """Which layers see a window, where the file says so."""
    flags = m.flags("attention.sliding_window_pattern", m.whole("block_count"))
    if flags is None:
        return {}
    return {"layer_types": ["sliding_attention" if window else "full_attention" for window in flags]}


def _all_full(m: Metadata) -> Fields:
    full: Fields = {"sliding_window": None, "layer_types": ["full_attention"] * m.whole("block_count")}
    return {} if m.whole("attention.sliding_window", 0) else full


def _gemma_scale(blocks: int) -> Maker:
    """The largest model of each generation, known by its blocks, scales scores by hidden size and heads instead of head_dim."""

    def fields(m: Metadata) -> Fields:
        largest = m.whole("block_count") == blocks
        wide = m.whole("embedding_length") // m.count("attention.head_count")
        return {"query_pre_attn_scalar": wide if largest else head_dim(m)}

    return fields


def _cap(name: str, key: str = "") -> Maker:
    return lambda m: {name: m.real(key or name) if m.optional(key or name) is not None else None}


def _logit_scale(m: Metadata) -> Fields:
    return {"logit_scale": m.real("logit_scale")}


def _experts(m: Metadata) -> Fields:
    count, used = m.count("expert_count"), m.count("expert_used_count")
    if used > count:
        raise m.damaged("expert_used_count")
    return {
        "num_experts": count,
        "num_local_experts": count,
        "num_experts_per_tok": used,
        "moe_intermediate_size": m.whole("expert_feed_forward_length", m.whole("feed_forward_length")),
    }


def _constant(**values: Any) -> Maker:
    return lambda m: values


def _granite(m: Metadata) -> Fields:
    return {
        "attention_multiplier": m.real("attention.scale", head_dim(m) ** -0.5),
        "embedding_multiplier": m.real("embedding_scale", 1.0),
        "residual_multiplier": m.real("residual_scale", 1.0),
        "logits_scaling": m.real("logit_scale", 1.0),
    }


def _gpt_2(m: Metadata) -> Fields:
    return {
        "n_embd": m.count("embedding_length"),
        "n_layer": m.count("block_count"),
        "n_head": m.count("attention.head_count"),
        "n_inner": m.length("blk.0.ffn_up.weight"),
        "n_positions": m.count("context_length"),
    }


def _bloom(m: Metadata) -> Fields:
    return {
        "hidden_size": m.count("embedding_length"),
        "n_layer": m.count("block_count"),
        "n_head": m.count("attention.head_count"),
        "seq_length": m.count("context_length"),
    }


def _falcon(m: Metadata) -> Fields:
    """All converted Falcons compute attention and MLP in parallel and rotate; those with a second norm are new ones."""
    keys = m.whole("attention.head_count_kv", 1)
    new = m.has("blk.0.attn_norm_2.weight")
    return {
        "ffn_hidden_size": m.length("blk.0.ffn_up.weight"),
        "num_kv_heads": keys,
        "multi_query": not new and keys == 1,
        "new_decoder_architecture": new,
        "parallel_attn": True,
        "alibi": False,
        "bias": m.has("blk.0.attn_qkv.bias"),
    }


_LLAMA = (_sizes, _grouped, _head_dim, _rms())
_GEMMA = (*_LLAMA, _ATTENTION_BIAS)
_NEW_GLM = (*_LLAMA, _ATTENTION_BIAS)

ARCHITECTURES: Mapping[str, Architecture] = {
    "arcee": Architecture("arcee", "ArceeForCausalLM", (*_LLAMA, _ATTENTION_BIAS, _MLP_BIAS), halves=True),
    "bloom": Architecture("bloom", "BloomForCausalLM", (_bloom, _layer_norm("layer_norm_epsilon"))),
    "chatglm": Architecture("glm", "GlmForCausalLM", _NEW_GLM),
    "command-r": Architecture(
        "cohere",
        "CohereForCausalLM",
        (_sizes, _grouped, _layer_norm("layer_norm_eps"), _ATTENTION_BIAS, _normed_heads, _logit_scale),
    ),
    "cohere2": Architecture(
        "cohere2",
        "Cohere2ForCausalLM",
        (_sizes, _grouped, _head_dim, _layer_norm("layer_norm_eps"), _needed_window, _window_layers, _logit_scale),
    ),
    "ernie4_5": Architecture("ernie4_5", "Ernie4_5ForCausalLM", (*_LLAMA, _BIAS)),
    "exaone4": Architecture("exaone4", "Exaone4ForCausalLM", (*_LLAMA, _window, _window_layers, _all_full)),
    "falcon": Architecture("falcon", "FalconForCausalLM", (_sizes, _falcon, _layer_norm("layer_norm_epsilon"))),
    "gemma": Architecture("gemma", "GemmaForCausalLM", _GEMMA, norm_offset=1.0),
    "gemma2": Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        (
            *_GEMMA,
            _gemma_2_window,
            _window_layers,
            _gemma_scale(46),
            _cap("attn_logit_softcapping"),
            _cap("final_logit_softcapping"),
        ),
        norm_offset=1.0,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        "Gemma3ForCausalLM",
        (*_GEMMA, _gemma_3_window, _window_layers, _gemma_scale(62), _cap("final_logit_softcapping")),
        norm_offset=1.0,
    ),
    "glm4": Architecture("glm4", "Glm4ForCausalLM", _NEW_GLM),
    "gpt2": Architecture("gpt2", "GPT2LMHeadModel", (_gpt_2, _layer_norm("layer_norm_epsilon")), transposed=True),
    "gptneox": Architecture(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        (_sizes, _layer_norm("layer_norm_eps"), _parallel, _ATTENTION_BIAS),
    ),
    "granite": Architecture(
        "granite", "GraniteForCausalLM", (_sizes, _grouped, _rms(), _ATTENTION_BIAS, _MLP_BIAS, _granite), halves=True
    ),
    "llama": Architecture("llama", "LlamaForCausalLM", (*_LLAMA, _ATTENTION_BIAS, _MLP_BIAS), halves=True),
    "nemotron": Architecture(
        "nemotron",
        "NemotronForCausalLM",
        (_sizes, _grouped, _head_dim, _layer_norm("norm_eps"), _ATTENTION_BIAS, _MLP_BIAS),
        norm_offset=1.0,
    ),
    "olmo": Architecture(
        "olmo",
        "OlmoForCausalLM",
        (_sizes, _grouped, _ATTENTION_BIAS, _cap("clip_qkv", "attention.clamp_kqv")),
        halves=True,
    ),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM", (_sizes, _grouped, _rms(), _ATTENTION_BIAS)),
    "olmoe": Architecture(
        "olmoe",
        "OlmoeForCausalLM",
        (_sizes, _grouped, _rms(), _experts, _ATTENTION_BIAS, _constant(norm_topk_prob=False)),
    ),
    "phi2": Architecture("phi", "PhiForCausalLM", (_sizes, _grouped, _layer_norm("layer_norm_eps"))),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", (_sizes, _grouped, _rms(), _window)),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", (_sizes, _grouped, _rms())),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", (*_LLAMA, _ATTENTION_BIAS)),
    "qwen3moe": Architecture(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        (*_LLAMA, _experts, _ATTENTION_BIAS, _constant(norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[])),
    ),
    "seed_oss": Architecture(
        "seed_oss",
        "SeedOssForCausalLM",
        (*_LLAMA, _ATTENTION_BIAS, _MLP_BIAS, _if_there("attention_out_bias", "blk.0.attn_output.bias")),
    ),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", (*_LLAMA, _ATTENTION_BIAS, _MLP_BIAS), halves=True),
    "stablelm": Architecture(
        "stablelm",
        "StableLmForCausalLM",
        (_sizes, _grouped, _layer_norm("layer_norm_eps"), _parallel, _QKV_BIAS, _normed_heads),
    ),
    "starcoder2": Architecture(
        "starcoder2",
        "Starcoder2ForCausalLM",
        # Its window is not in the files; all that were published have this one.
        (_sizes, _grouped, _layer_norm("norm_epsilon"), _BIAS, _constant(sliding_window=4096)),
    ),
}

# Files of these architectures are models of another class where a key or a tensor says so.
_MIXTRAL = Architecture("mixtral", "MixtralForCausalLM", (*_LLAMA, _experts, _constant(sliding_window=None)), halves=True)
_OLMO_3 = Architecture("olmo3", "Olmo3ForCausalLM", (_sizes, _grouped, _rms(), _ATTENTION_BIAS, _window, _window_layers))


def architecture_of(m: Metadata) -> Architecture | None:
    """What a file is; None where its architecture is not in the table."""
    name = m.architecture
    if name == "llama" and m.whole("expert_count", 0):
        return _MIXTRAL
    if name == "olmo2" and m.whole("attention.sliding_window", 0):
        return _OLMO_3
    return ARCHITECTURES.get(name)
