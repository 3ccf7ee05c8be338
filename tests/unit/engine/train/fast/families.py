"""Tiny models of the families that people train, of odd sizes, their windows shorter than the rows: for `tiny_model`."""

from __future__ import annotations

from typing import Any

_WINDOW = 7
_SPREAD = {"initializer_range": 0.3}
_LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    **_SPREAD,
}
_WIDE = {"head_dim": 14}  # not the width over the heads
_MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": _WINDOW}
_LATER = {"use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 1}
_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.0}
_GPT = {"n_embd": 48, "n_layer": 2, "n_positions": 512, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, **_SPREAD}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.5],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 256,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": _LLAMA | _WIDE,
    "gemma2": _LLAMA
    | _WIDE
    | _MIXED
    | {"query_pre_attn_scalar": 10, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0},
    "gemma3_text": _LLAMA | _WIDE | _MIXED | {"query_pre_attn_scalar": 10},
    "phi3": _LLAMA | {"sliding_window": _WINDOW},
    # As Phi-4-mini has it, and with angles of its own for long rows.
    "phi3_longrope": _LLAMA
    | {"head_dim": 16, "num_attention_heads": 3, "num_key_value_heads": 1, "original_max_position_embeddings": 256}
    | {"rope_parameters": _LONG | {"partial_rotary_factor": 0.5}, "max_position_embeddings": 256},
    "qwen2": _LLAMA | _LATER,
    "qwen3": _LLAMA | _WIDE | _LATER,
    "mistral": _LLAMA | _WIDE | {"sliding_window": _WINDOW},
    "smollm3": _LLAMA | {"no_rope_layers": [1, 1, 0]},
    "granite": _LLAMA
    | {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.6, "attention_multiplier": 0.2},
    "ministral": _LLAMA | _WIDE | _MIXED,
    "exaone4": _LLAMA | _MIXED,
    "nemotron": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": _LLAMA | {"sliding_window": _WINDOW},
    "cohere": _LLAMA | {"logit_scale": 0.3, "use_qk_norm": True},
    "cohere2": _LLAMA | {"logit_scale": 0.3, "sliding_window": _WINDOW, "head_dim": 8},
    "stablelm": _LLAMA | {"qk_layernorm": True},
    "starcoder2": _LLAMA | {"sliding_window": _WINDOW},
    "gpt2": _GPT | {"n_head": 4, "max_position_embeddings": 512},
    "gpt_neox": {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"} | {"rotary_pct": 0.25},
    "opt": {
        "hidden_size": 48,
        "ffn_dim": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 512,
        "init_std": 0.3,
        "dropout": 0.0,
        "word_embed_proj_dim": 48,
    },
    "falcon": _LLAMA | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 2},
    "falcon_7b": _LLAMA | {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False},
    "falcon_rw": _LLAMA
    | {"alibi": True, "new_decoder_architecture": False, "multi_query": False, "parallel_attn": False, "bias": True},
    "bloom": {"hidden_size": 48, "n_layer": 2, "n_head": 6, "hidden_dropout": 0.0, "attention_dropout": 0.0, **_SPREAD},
    "glm": _LLAMA | {"head_dim": 8},
    "glm4": _LLAMA | {"head_dim": 8},
    "qwen3_moe": _LLAMA | _WIDE | _EXPERTS | {"moe_intermediate_size": 24},
    "mixtral": _LLAMA | {"num_local_experts": 3, "router_aux_loss_coef": 0.0, "sliding_window": _WINDOW},
    "olmoe": _LLAMA | _EXPERTS,
    "phi": _LLAMA | {"partial_rotary_factor": 0.5},
    "gpt_oss": _LLAMA
    | _WIDE
    | {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": _WINDOW, "router_aux_loss_coef": 0.0},
    "mpt": {"d_model": 48, "n_heads": 6, "n_layers": 2, "max_seq_len": 512, **_SPREAD},
    "gpt_neo": {
        "hidden_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": _WINDOW,
        "max_position_embeddings": 512,
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
        **_SPREAD,
    },
    "gptj": _GPT | {"n_head": 3, "rotary_dim": 8},
    "codegen": _GPT | {"n_head": 4, "rotary_dim": 8},
    "mamba": {"hidden_size": 48, "state_size": 8, "num_hidden_layers": 2, **_SPREAD},
}
_CLASSES = {"phi3_longrope": "phi3", "falcon_7b": "falcon", "falcon_rw": "falcon"}
FAMILIES = {name: {"architecture": _CLASSES.get(name, name), **settings} for name, settings in FAMILIES.items()}
# What has attention, or something beside it, of its own.
PLAIN = {
    "gpt_oss": "its attention is given s_aux",
    "mpt": "it cannot take several texts in one row",
    "mamba": "texts in one row come out",
}
