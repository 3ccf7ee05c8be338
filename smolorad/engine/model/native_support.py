"""Which of transformers' models the native step supports, and their shapes and weights for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.activations import SiLUActivation

from smolorad.domain import Precision
from smolorad.engine.native.library import GROUP
from smolorad.engine.native.model_shape import Shape
from smolorad.engine.native.torch_arrays import KNOWN, array_of

_KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Their frequencies stay what they are while a sequence grows.
_STEADY_ROPE = frozenset({"default", "linear", "llama3", "yarn"})


def supports(model: Any, precision: Precision = Precision.EXACT) -> bool:
    """Whether the native step computes the same. For a model on the meta device: whether it will, on the CPU."""
    if type(model) not in _KNOWN or not len(model.model.layers):
        return False
    parameters = dict(model.named_parameters(remove_duplicate=False))
    matrices = [tensor for tensor in parameters.values() if tensor.ndim > 1]
    dtype = model.lm_head.weight.dtype
    return (
        _is_plain(model)
        and dtype in KNOWN
        and all(t.dtype is dtype and t.device.type in ("cpu", "meta") and t.is_contiguous() for t in matrices)
        and (precision is Precision.EXACT or all(tensor.shape[1] % GROUP == 0 for tensor in matrices))
        and all(type(linear) is nn.Linear for linear in _linears(model))
        and not shape_of(model).misfit({name: tensor.shape for name, tensor in parameters.items()})
    )


def shape_of(model: Any) -> Shape:
    """The shape of a model of a class that the step knows; its weights need not be there."""
    config, attention = model.config, model.model.layers[0].self_attn
    rope = model.model.rotary_emb
    if rope.inv_freq.is_meta:  # where there are no numbers
        rope = type(rope)(config=config)
    return Shape(
        layers=len(model.model.layers),
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


def _is_plain(model: Any) -> bool:
    """Whether a config that these classes take asks for nothing but what the step computes."""
    config, layers = model.config, model.model.layers
    return (
        model.model.rotary_emb.rope_type in _STEADY_ROPE
        and all(isinstance(layer.mlp.act_fn, nn.SiLU | SiLUActivation) for layer in layers)
        and all(layer.self_attn.scaling == layers[0].self_attn.scaling for layer in layers)
        # Every class reads these when it makes its attention mask.
        and getattr(config, "is_causal", True)
        and getattr(config, "sliding_window", None) is None
        and getattr(config, "attention_chunk_size", None) is None
        and all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
    )


def weights_of(model: Any) -> dict[str, NDArray[Any]]:
    """The parameters of a model on the CPU by name, without a copy."""
    return {name: array_of(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}


def _linears(model: Any) -> Iterator[Any]:
    for layer in model.model.layers:
        own = layer.self_attn
        yield from (own.q_proj, own.k_proj, own.v_proj, own.o_proj)
        yield from (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
