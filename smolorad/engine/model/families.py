"""The table of model families: which class of transformers is which kind of decoder.

A class that is not in the table is computed by transformers' own code. An entry says where the class keeps the parts of a
decoder, and what its code does that no module shows; `describe.py` reads everything else off the modules themselves. To add a
class, compare its `modeling_*.py` with the nearest entry, and let `tests/unit/engine/model/test_families.py` compare logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from smolorad.engine.native.description import NormKind


class Fused(Enum):
    """How the rows of a layer lie in which queries, keys and values are one."""

    JOINED = "all queries, all keys, all values"
    GROUPED = "for each key head its queries, the key and the value"


class Windows(Enum):
    """Which layers see a window of `sliding_window` tokens."""

    NONE = "the class does not know windows"
    ALL = "all, if the config has a window"
    BY_TYPE = "those that are sliding_attention in layer_types"


class Rotated(Enum):
    """Which layers rotate queries and keys."""

    ALL = "all but those whose attention has `use_rope` off"
    WINDOWS = "those with a window"
    WINDOWS_IF_ANY = "those with a window, or all where the config has none"


@dataclass(frozen=True, slots=True)
class Family:
    """Names are those of modules below their parent; an empty one is absent. Names of numbers are of attributes."""

    body: str = "model"
    embedding: str = "embed_tokens"
    embedding_norm: str = ""
    positions: str = ""  # learned
    layers: str = "layers"
    final_norm: str = "norm"
    # Of a layer.
    attention: str = "self_attn"
    heads: Sequence[str] = ("q_proj", "k_proj", "v_proj")  # or the fused one
    fused: Fused | None = None
    output: str = "o_proj"
    query_norm: str = "q_norm"  # where there is one
    key_norm: str = "k_norm"
    joint_norms: bool = False
    mlp: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    gate_up: str = ""  # both, fused
    activation: str = "act_fn"  # of the MLP, or of the layer
    attention_norm: str = "input_layernorm"
    attention_out_norm: str = ""
    mlp_norm: str = "post_attention_layernorm"
    mlp_out_norm: str = ""
    parallel: str = ""  # the field of the config that makes attention and MLP read the same; "always"
    alibi: str = ""  # the field of the config that puts ALiBi in the place of rotations; "always"
    rounded_alibi: bool = False  # slopes and what they give are rounded to bf16, and scaled as scores are
    windows: Windows = Windows.NONE
    rotated: Rotated = Rotated.ALL
    interleaved: bool = False  # rotates neighbours
    attention_scale: str = "scaling"  # of the attention module
    score_cap: str = ""  # of the config, as are the next ones
    logit_cap: str = ""
    logit_scale: str = ""
    logit_divisor: str = ""
    embedding_scale: str = ""
    residual_scale: str = ""
    # Fields of the config that must have one of these values (or be absent), since the step computes nothing else.
    needs: Mapping[str, Sequence[object]] = field(default_factory=dict)


_CAUSAL: Mapping[str, Sequence[object]] = {"use_bidirectional_attention": (None, False)}

_LLAMA = Family()
_MISTRAL = Family(windows=Windows.ALL)
_QWEN = Family(windows=Windows.BY_TYPE)
_PRE_AND_POST_NORMS = Family(
    attention_out_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_out_norm="post_feedforward_layernorm",
)
_POST_NORMS = replace(_PRE_AND_POST_NORMS, attention_norm="", mlp_norm="")
_PLAIN_MLP = Family(gate="", up="c_fc", down="c_proj", activation="act")
_GEMMA_2 = replace(
    _PRE_AND_POST_NORMS, windows=Windows.BY_TYPE, score_cap="attn_logit_softcapping", logit_cap="final_logit_softcapping"
)
_GEMMA_3 = replace(
    _PRE_AND_POST_NORMS,
    windows=Windows.BY_TYPE,
    logit_cap="final_logit_softcapping",
    needs={**_CAUSAL, "attn_logit_softcapping": (None,)},
)
_PHI_3 = Family(
    windows=Windows.ALL, heads=("qkv_proj",), fused=Fused.JOINED, gate_up="gate_up_proj", activation="activation_fn"
)
_GRANITE = Family(embedding_scale="embedding_multiplier", residual_scale="residual_multiplier", logit_divisor="logits_scaling")
_COHERE = Family(parallel="always", mlp_norm="input_layernorm", interleaved=True, logit_scale="logit_scale")
_STABLELM = Family(query_norm="q_layernorm", key_norm="k_layernorm", parallel="use_parallel_residual")
_GPT_2 = replace(
    _PLAIN_MLP,
    body="transformer",
    embedding="wte",
    positions="wpe",
    layers="h",
    final_norm="ln_f",
    attention="attn",
    heads=("c_attn",),
    fused=Fused.JOINED,
    output="c_proj",
    attention_norm="ln_1",
    mlp_norm="ln_2",
    needs={"add_cross_attention": (False,)},
)
_GROUPED = Family(
    heads=("query_key_value",),
    fused=Fused.GROUPED,
    output="dense",
    gate="",
    up="dense_h_to_4h",
    down="dense_4h_to_h",
    activation="act",
)
_GPT_NEOX = replace(
    _GROUPED,
    body="gpt_neox",
    embedding="embed_in",
    final_norm="final_layer_norm",
    attention="attention",
    parallel="use_parallel_residual",
)
_OPT = Family(
    body="model.decoder",
    positions="embed_positions",
    final_norm="final_layer_norm",
    output="out_proj",
    mlp=".",
    gate="",
    up="fc1",
    down="fc2",
    activation="activation_fn",
    attention_norm="self_attn_layer_norm",
    mlp_norm="final_layer_norm",
    needs={"do_layer_norm_before": (True,)},
)
_FALCON = replace(
    _GROUPED,
    body="transformer",
    embedding="word_embeddings",
    layers="h",
    final_norm="ln_f",
    attention="self_attention",
    attention_scale="inv_norm_factor",
    parallel="parallel_attn",
    alibi="alibi",
    rounded_alibi=True,
)
_BLOOM = replace(
    _FALCON,
    embedding_norm="word_embeddings_layernorm",
    activation="gelu_impl",
    parallel="",
    alibi="always",
    rounded_alibi=False,
    needs={"apply_residual_connection_post_layernorm": (False,), "slow_but_exact": (False,)},
)
_GLM = Family(gate_up="gate_up_proj", activation="activation_fn", interleaved=True)
_PHI = Family(
    final_norm="final_layernorm",
    output="dense",
    query_norm="q_layernorm",
    key_norm="k_layernorm",
    gate="",
    up="fc1",
    down="fc2",
    activation="activation_fn",
    mlp_norm="input_layernorm",
    parallel="always",
)
_UP_AND_DOWN = Family(gate="")

# By the class's name. Norms need no entry, nor do biases, tied heads, rotations and experts: `describe.py` finds them.
FAMILIES: Mapping[str, Family] = {
    "ArceeForCausalLM": _UP_AND_DOWN,
    "BloomForCausalLM": _BLOOM,
    "CohereForCausalLM": _COHERE,
    "Cohere2ForCausalLM": replace(_COHERE, windows=Windows.BY_TYPE, rotated=Rotated.WINDOWS),
    "Ernie4_5ForCausalLM": replace(_LLAMA, interleaved=True),
    "Exaone4ForCausalLM": replace(_POST_NORMS, windows=Windows.BY_TYPE, rotated=Rotated.WINDOWS_IF_ANY),
    "FalconForCausalLM": _FALCON,
    "GemmaForCausalLM": replace(_LLAMA, needs=_CAUSAL),
    "Gemma2ForCausalLM": replace(_GEMMA_2, needs=_CAUSAL),
    "Gemma3ForCausalLM": _GEMMA_3,
    "GlmForCausalLM": _GLM,
    "Glm4ForCausalLM": replace(_GLM, attention_out_norm="post_self_attn_layernorm", mlp_out_norm="post_mlp_layernorm"),
    "GPT2LMHeadModel": _GPT_2,
    "GPTNeoXForCausalLM": _GPT_NEOX,
    "GraniteForCausalLM": _GRANITE,
    "HeliumForCausalLM": replace(_LLAMA, interleaved=True),
    "LlamaForCausalLM": _LLAMA,
    "MinistralForCausalLM": _QWEN,
    "MistralForCausalLM": _MISTRAL,
    "MixtralForCausalLM": _MISTRAL,
    "NemotronForCausalLM": _UP_AND_DOWN,
    "OlmoForCausalLM": replace(_LLAMA, needs={"clip_qkv": (None,)}),
    "Olmo2ForCausalLM": replace(_POST_NORMS, joint_norms=True),
    "Olmo3ForCausalLM": replace(_POST_NORMS, joint_norms=True, windows=Windows.BY_TYPE),
    "OlmoeForCausalLM": replace(_LLAMA, joint_norms=True, needs={"clip_qkv": (None,)}),
    "OPTForCausalLM": _OPT,
    "PhiForCausalLM": _PHI,
    "Phi3ForCausalLM": _PHI_3,
    "Qwen2ForCausalLM": _QWEN,
    "Qwen3ForCausalLM": _QWEN,
    "Qwen3MoeForCausalLM": _MISTRAL,
    "SeedOssForCausalLM": _LLAMA,
    "SmolLM3ForCausalLM": _QWEN,
    "StableLmForCausalLM": _STABLELM,
    "Starcoder2ForCausalLM": replace(_PLAIN_MLP, windows=Windows.ALL),
    "VaultGemmaForCausalLM": replace(_GEMMA_2, attention_out_norm="", mlp_out_norm=""),
}

# The `model_type` of each class's config.
MODEL_TYPES = frozenset(
    (
        *("arcee", "bloom", "cohere", "cohere2", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm"),
        *("glm4", "gpt2", "gpt_neox", "granite", "helium", "llama", "ministral", "mistral", "mixtral", "nemotron", "olmo"),
        *("olmo2", "olmo3", "olmoe", "opt", "phi", "phi3", "qwen2", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm"),
        *("starcoder2", "vaultgemma"),
    )
)

# What a norm's class computes: its kind, and what it adds to its weight. All of a name compute the same.
NORMS: Mapping[str, tuple[NormKind, float]] = {
    "LayerNorm": (NormKind.LAYER, 0.0),
    "CohereLayerNorm": (NormKind.LAYER, 0.0),
    "Cohere2LayerNorm": (NormKind.LAYER, 0.0),
    "OlmoLayerNorm": (NormKind.LAYER, 0.0),
    "NemotronLayerNorm1P": (NormKind.LAYER, 1.0),
    "GemmaRMSNorm": (NormKind.RMS, 1.0),
    "Gemma2RMSNorm": (NormKind.RMS, 1.0),
    "Gemma3RMSNorm": (NormKind.RMS, 1.0),
    "VaultGemmaRMSNorm": (NormKind.RMS, 1.0),
    **{
        f"{prefix}RMSNorm": (NormKind.RMS, 0.0)
        for prefix in (
            *("Arcee", "Ernie4_5", "Exaone4", "Glm", "Glm4", "Granite", "Helium", "Llama", "Ministral", "Mistral", "Mixtral"),
            *("Olmo2", "Olmo3", "Olmoe", "Phi3", "Qwen2", "Qwen3", "Qwen3Moe", "SeedOss", "SmolLM3"),
        )
    },
}
