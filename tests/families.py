"""Tiny random models of every family that the native step describes, and of some others.

There are variants that cross what a config may ask for. Every parameter is random, norms and biases too, so that nothing is
left out without a change in the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from tests.tiny import tiny_tokenizer

CONTEXT = 512


@dataclass(frozen=True)
class Sizes:
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    expert: int

    @property
    def llama(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            **_COMMON,
        }

    @property
    def without_kv_heads(self) -> dict[str, Any]:
        return {name: value for name, value in self.llama.items() if name != "num_key_value_heads"}

    @property
    def gpt_2(self) -> dict[str, Any]:
        own = {"n_embd": self.hidden, "n_layer": 3, "n_head": self.heads, "n_inner": self.inner}
        return own | {"n_positions": CONTEXT, "layer_norm_epsilon": 1e-3}

    @property
    def falcon(self) -> dict[str, Any]:
        return self.without_kv_heads | {"ffn_hidden_size": self.inner, "alibi": False}


_COMMON = {"num_hidden_layers": 3, "max_position_embeddings": CONTEXT}
ODD = Sizes(hidden=60, inner=76, heads=6, kv_heads=2, expert=20)
# Columns in whole groups, so that matrices can be packed.
EVEN = Sizes(hidden=64, inner=96, heads=4, kv_heads=2, expert=32)

WINDOW = {"sliding_window": 7}
SOME_WINDOWS = WINDOW | {"use_sliding_window": True, "max_window_layers": 1}
_PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 256}

# The type of the config, and what it has besides sizes.
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("arcee", {}),
    "bloom": ("bloom", {}),
    "cohere": ("cohere", {"logit_scale": 0.3}),
    "cohere, q and k normed": ("cohere", {"logit_scale": 0.3, "use_qk_norm": True}),
    "cohere 2": ("cohere2", {"logit_scale": 0.3, **WINDOW}),
    "ernie 4.5": ("ernie4_5", {"head_dim": 16, "use_bias": True}),
    "exaone 4": ("exaone4", {"sliding_window_pattern": 2, **WINDOW}),
    "exaone 4 without windows": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "falcon, new": ("falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon, new, one norm": (
        "falcon",
        {"num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "bias": True},
    ),
    "falcon, one key": ("falcon", {"multi_query": True}),
    "falcon, alibi": ("falcon", {"multi_query": False, "alibi": True, "parallel_attn": False, "bias": True}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma 2": (
        "gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 9, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 0.7, **WINDOW},
    ),
    "gemma 3": ("gemma3_text", {"head_dim": 16, "query_pre_attn_scalar": 9, **WINDOW}),
    "gemma 3, capped": (
        "gemma3_text",
        {"head_dim": 16, "layer_types": ["full_attention", "sliding_attention"] * 2, "final_logit_softcapping": 3.0}
        | {"num_hidden_layers": 4, **WINDOW},
    ),
    "glm": ("glm", {"head_dim": 16, "attention_bias": True, "rope_parameters": _PARTIAL}),
    "glm 4": ("glm4", {"head_dim": 16, "attention_bias": True, "rope_parameters": _YARN | {"partial_rotary_factor": 0.5}}),
    "gpt 2": ("gpt2", {}),
    "gpt 2, relu": ("gpt2", {"activation_function": "relu", "scale_attn_weights": False}),
    "gpt neox": ("gpt_neox", {"rope_parameters": _PARTIAL}),
    "gpt neox in sequence": ("gpt_neox", {"use_parallel_residual": False, "hidden_act": "gelu_fast"}),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4, "logits_scaling": 1.7},
    ),
    "helium": ("helium", {}),
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {"tie_word_embeddings": True, "head_dim": 24}),
    "llama, gelu": ("llama", {"hidden_act": "gelu"}),
    "ministral": (
        "ministral",
        {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]} | WINDOW,
    ),
    "mistral": ("mistral", {"head_dim": 16, **WINDOW}),
    "mistral without a window": ("mistral", {"sliding_window": None, "hidden_act": "quick_gelu"}),
    "mixtral": ("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2, **WINDOW}),
    "nemotron": ("nemotron", {"norm_eps": 1e-3, "mlp_bias": True}),
    "olmo": ("olmo", {}),
    "olmo 2": ("olmo2", {"attention_bias": True}),
    "olmo 3": ("olmo3", {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]} | WINDOW),
    "olmoe": ("olmoe", {"num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": False}),
    "opt": ("opt", {}),
    "phi": ("phi", {"qk_layernorm": True, "rope_parameters": _PARTIAL}),
    "phi 3": ("phi3", {"sliding_window": None}),
    "phi 3, windows": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}} | WINDOW,
    ),
    "qwen 2": ("qwen2", {}),
    "qwen 2, windows": ("qwen2", SOME_WINDOWS),
    "qwen 3": ("qwen3", {"head_dim": 16}),
    "qwen 3, windows": ("qwen3", {"head_dim": 16, "attention_bias": True} | SOME_WINDOWS),
    "qwen 3 moe": ("qwen3_moe", {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "mlp_only_layers": [1]}),
    "qwen 3 moe, normed": (
        "qwen3_moe",
        {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True, "decoder_sparse_step": 1},
    ),
    "seed oss": ("seed_oss", {"head_dim": 16, "attention_bias": True, "attention_out_bias": True}),
    "smollm 3": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "smollm 3, windows": ("smollm3", {"no_rope_layers": [0, 1, 1]} | SOME_WINDOWS),
    "stablelm": ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True}),
    "stablelm in parallel": ("stablelm", {"use_parallel_residual": True}),
    "starcoder 2": ("starcoder2", {"norm_epsilon": 1e-3, **WINDOW}),
    "starcoder 2 without biases": ("starcoder2", {"use_bias": False, "sliding_window": None}),
    "vaultgemma": ("vaultgemma", {"head_dim": 16, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 0.7, **WINDOW}),
}

_LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.5, 1.6],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0],
    "original_max_position_embeddings": 256,
}
# What the native step does not describe; and as Phi-4-mini has it, with angles of its own for long texts.
OTHERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "codegen": ("codegen", {"n_head": 4, "rotary_dim": 8}),
    "gpt neo": ("gpt_neo", {"num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 7}),
    "gpt oss": ("gpt_oss", {"head_dim": 14, "num_local_experts": 3, "num_experts_per_tok": 2, **WINDOW}),
    "gpt-j": ("gptj", {"rotary_dim": 8}),
    "mamba": ("mamba", {"state_size": 8, "num_hidden_layers": 2}),
    "mpt": ("mpt", {"n_layers": 2, "max_seq_len": CONTEXT}),
    "phi 3, longrope": (
        "phi3",
        {"num_attention_heads": 3, "num_key_value_heads": 1, "original_max_position_embeddings": 256}
        | {"rope_parameters": _LONG | {"partial_rotary_factor": 0.5}, "max_position_embeddings": 256},
    ),
}
_DROPOUTS = (
    *("activation_dropout", "attention_dropout", "attn_pdrop", "dropout", "embd_pdrop", "embed_dropout", "embedding_dropout"),
    *("hidden_dropout", "layerdrop", "resid_dropout", "resid_pdrop", "residual_dropout"),
)
# With these a training is repeatable, and its loss that of the tokens alone.
REPEATABLE: Mapping[str, float] = dict.fromkeys((*_DROPOUTS, "router_aux_loss_coef"), 0.0)


def config_of(variant: str, sizes: Sizes = ODD, **changes: Any) -> Any:
    """The config of a tiny model."""
    kind, own = VARIANTS[variant] if variant in VARIANTS else OTHERS[variant]
    match kind:
        case "gpt2" | "gptj" | "codegen":
            base = sizes.gpt_2
        case "gpt_neo":
            base = {"hidden_size": sizes.hidden, "num_layers": 2, "max_position_embeddings": CONTEXT}
        case "mamba":
            base = {"hidden_size": sizes.hidden}
        case "mpt":
            base = {"d_model": sizes.hidden, "n_heads": sizes.heads}
        case "falcon":
            base = sizes.falcon
        case "bloom":
            base = {"hidden_size": sizes.hidden, "n_layer": 3, "n_head": sizes.heads}
        case "opt":
            base = sizes.without_kv_heads | {"ffn_dim": sizes.inner, "word_embed_proj_dim": sizes.hidden}
        case "gpt_neox":
            base = sizes.without_kv_heads
        case "helium":
            base = sizes.llama | {"head_dim": sizes.hidden // sizes.heads}
        case _:
            base = sizes.llama | {"moe_intermediate_size": sizes.expert}
    settings = base | {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} | own | changes
    return AutoConfig.for_model(kind, **settings)


def family_model(variant: str, sizes: Sizes = ODD, *, seed: int = 0, **changes: Any) -> Any:
    """A tiny model in fp32, all of whose parameters are random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config_of(variant, sizes, **changes), dtype=torch.float32).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                drawn = torch.randn_like(parameter)
                if parameter.ndim > 1 and "norm" not in name:
                    parameter.copy_(drawn / (2 if "embed" in name or "wte" in name else parameter.shape[-1] ** 0.5))
                else:
                    parameter.add_(0.3 * drawn)
    return model


def family_folder(folder: Path, variant: str, sizes: Sizes = EVEN, **changes: Any) -> Path:
    """Writes a tiny model with a tokenizer into `folder`, and returns it."""
    tokenizer = tiny_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    model = family_model(variant, sizes, **{"vocab_size": len(tokenizer)} | ends | changes)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
