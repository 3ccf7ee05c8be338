"""Which of transformers' models the native step knows, and what it must know of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from smolorad.domain import Precision
from smolorad.engine.arrays import KNOWN, array_of
from smolorad.engine.native.library import GROUP
from smolorad.engine.native.shape import Shape

_KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Their frequencies stay what they are while a sequence grows.
_STEADY_ROPE = frozenset({"default", "linear", "llama3", "yarn"})


def knows(model: Any, precision: Precision = Precision.EXACT) -> bool:
    """Whether the step computes what this model computes. Of a model on the meta device: whether it will, on the CPU."""
    if type(model) not in _KNOWN:
        return False
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    tensors = [linear.weight for linear in _linears(model)] + [model.lm_head.weight, model.model.embed_tokens.weight]
    dtype = tensors[0].dtype
    return (
        config.hidden_act == "silu"
        and rope in _STEADY_ROPE
        and getattr(config, "sliding_window", None) is None
        and dtype in KNOWN
        and all(t.dtype is dtype and t.device.type in ("cpu", "meta") and t.is_contiguous() for t in tensors)
        and (precision is Precision.EXACT or all(tensor.shape[1] % GROUP == 0 for tensor in tensors))
        and model.lm_head.bias is None
        and all(type(linear) is nn.Linear for linear in _linears(model))
    )


def shape_of(model: Any) -> Shape:
    """The shape of a model that `knows` knows; only its rotary frequencies must be there, not its weights."""
    config, rope = model.config, model.model.rotary_emb
    attention = model.model.layers[0].self_attn
    return Shape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        inner=config.intermediate_size,
        vocabulary=model.lm_head.weight.shape[0],
        eps=config.rms_norm_eps,
        attention_scale=attention.scaling,
        rope_scale=rope.attention_scaling,
        inverse_frequencies=tuple(rope.inv_freq.to(torch.float32).tolist()),
        tied=model.lm_head.weight is model.model.embed_tokens.weight,
        modules=tuple(name for name, _ in model.named_modules()),
    )


def weights_of(model: Any) -> dict[str, NDArray[Any]]:
    """The parameters of a model on the CPU, where they are, by name."""
    return {name: array_of(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}


def _linears(model: Any) -> Iterator[Any]:
    for layer in model.model.layers:
        own = layer.self_attn
        yield from (own.q_proj, own.k_proj, own.v_proj, own.o_proj)
        yield from (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
