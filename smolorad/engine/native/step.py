"""The native step as Python sees it: which models it knows, and one call a token."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from smolorad.engine.kvcache import KvCache

MAX_SEQUENCES = 16
_KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Their frequencies stay what they are while a sequence grows.
_STEADY_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_Pointer = ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = (
        ("weight", _Pointer * len(_PROJECTIONS)),
        ("bias", _Pointer * len(_PROJECTIONS)),
        ("attention_norm", _Pointer),
        ("mlp_norm", _Pointer),
        ("q_norm", _Pointer),
        ("k_norm", _Pointer),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab", "dtype")),
        *((name, ctypes.c_float) for name in ("eps", "rope_scale", "attention_scale")),
        *((name, _Pointer) for name in ("embedding", "head", "final_norm", "inverse_frequencies")),
        ("layer", ctypes.POINTER(_Layer)),
    )


class _Lora(ctypes.Structure):
    _fields_ = (("a", _Pointer), ("b", _Pointer), ("rank", ctypes.c_int32), ("scale", ctypes.c_float))


class _Sequence(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("token", "position", "capacity")),
        ("keys", ctypes.POINTER(_Pointer)),
        ("values", ctypes.POINTER(_Pointer)),
        ("lora", ctypes.POINTER(_Lora)),
        ("logits", _Pointer),
    )


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter as the step reads it."""

    table: Any  # _Lora for each projection of each layer
    kept: tuple[Tensor, ...]  # what its pointers point at


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part in a step: the token to compute, and what came before; the cache is one token longer afterwards."""

    token: int
    cache: KvCache
    lora: Lora | None = None


class NativeModel:
    """A model's weights as the step reads them, where torch has them. For one thread at a time."""

    def __init__(self, library: ctypes.CDLL, model: Any, threads: int) -> None:
        """Use `NativeModel.of`, which knows whether this can be."""
        config = model.config
        self._model = model  # whose tensors the pointers point at
        self._kept: list[Tensor] = []
        self._layers = (_Layer * config.num_hidden_layers)()
        self.heads, self.head_dim = config.num_key_value_heads, model.model.layers[0].self_attn.head_dim
        self.dtype, self._vocab = model.lm_head.weight.dtype, model.lm_head.weight.shape[0]
        for target, layer in zip(self._layers, model.model.layers, strict=True):
            self._fill(target, layer)
        rope = model.model.rotary_emb
        self._described = _Model(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=self.heads,
            head_dim=self.head_dim,
            inner=config.intermediate_size,
            vocab=self._vocab,
            dtype=_DTYPES[self.dtype],
            eps=config.rms_norm_eps,
            rope_scale=rope.attention_scaling,
            attention_scale=model.model.layers[0].self_attn.scaling,
            embedding=model.model.embed_tokens.weight.data_ptr(),
            head=model.lm_head.weight.data_ptr(),
            final_norm=self._small(model.model.norm.weight),
            inverse_frequencies=self._small(rope.inv_freq),
            layer=self._layers,
        )
        self._open, self._step, self._close = library.smolora_open, library.smolora_step, library.smolora_close
        self._open.restype, self._open.argtypes = _Pointer, (_Pointer, ctypes.c_int)
        self._step.restype, self._step.argtypes = ctypes.c_int, (_Pointer, _Pointer, ctypes.c_int)
        self._close.restype, self._close.argtypes = None, (_Pointer,)
        self._engine = self._open(ctypes.byref(self._described), threads)
        if not self._engine:
            raise MemoryError("no memory or no threads for the native step")

    @classmethod
    def of(cls, library: ctypes.CDLL | None, model: Any) -> NativeModel | None:
        """The step for a transformers model; None where there is no library, or the step does not know the model."""
        return cls(library, model, torch.get_num_threads()) if library is not None and knows(model) else None

    def cache(self, capacity: int) -> KvCache:
        """Room for a sequence of `capacity` tokens."""
        return KvCache(len(self._layers), self.heads, capacity, self.head_dim, self.dtype)

    def lora(self, view: Any) -> Lora | None:
        """The adapter on a view of this model, as PEFT put it there; None where it is more than plain LoRA on projections."""
        adapted = {
            name for name, module in view.named_modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        }
        table = (_Lora * (len(self._layers) * len(_PROJECTIONS)))()
        kept: list[Tensor] = []
        for at, (base, (name, module)) in enumerate(zip(_linears(self._model), _named_linears(view), strict=True)):
            if name in adapted:
                adapted.discard(name)
                tensors = _plain_lora(module)
                if tensors is None:
                    return None
                a, b, scale = tensors
                kept += (a, b)
                table[at] = _Lora(a.data_ptr(), b.data_ptr(), a.shape[0], scale)
                module = module.base_layer
            if module.weight is not base.weight or module.bias is not base.bias:
                return None
        return None if adapted else Lora(table, tuple(kept))

    def step(self, rows: Sequence[Row]) -> Tensor:
        """Computes one token of each of at most MAX_SEQUENCES sequences; the logits after them, (rows, vocabulary) in fp32."""
        logits = torch.empty((len(rows), self._vocab))
        table = (_Sequence * len(rows))()
        tables = []  # pointers to pointers, alive until the step is done
        for at, row in enumerate(rows):
            keys, values = self._addresses(row.cache)
            tables.append((keys, values))
            table[at] = _Sequence(
                token=row.token,
                position=row.cache.length,
                capacity=row.cache.capacity,
                keys=keys,
                values=values,
                lora=row.lora.table if row.lora is not None else None,
                logits=logits[at].data_ptr(),
            )
        if self._step(self._engine, table, len(rows)):
            raise MemoryError("no memory for the attention of a sequence so long")
        for row in rows:
            row.cache.advance(1)
        return logits

    def _addresses(self, cache: KvCache) -> tuple[Any, Any]:
        begin, layers = cache.tensor.data_ptr(), len(self._layers)
        half = cache.tensor.stride(1) * cache.tensor.element_size()
        kind = _Pointer * layers
        return kind(*(begin + 2 * half * i for i in range(layers))), kind(*(begin + half * (2 * i + 1) for i in range(layers)))

    def _fill(self, target: _Layer, layer: Any) -> None:
        for at, linear in enumerate(_of_layer(layer)):
            target.weight[at] = linear.weight.data_ptr()
            target.bias[at] = None if linear.bias is None else self._small(linear.bias)
        target.attention_norm = self._small(layer.input_layernorm.weight)
        target.mlp_norm = self._small(layer.post_attention_layernorm.weight)
        if (q_norm := getattr(layer.self_attn, "q_norm", None)) is not None:
            target.q_norm, target.k_norm = self._small(q_norm.weight), self._small(layer.self_attn.k_norm.weight)

    def _small(self, tensor: Tensor) -> int:
        self._kept.append(tensor.detach().to(torch.float32, copy=True).contiguous())
        return self._kept[-1].data_ptr()

    def __del__(self) -> None:
        if getattr(self, "_engine", None):
            self._close(self._engine)


def knows(model: Any) -> bool:
    """Whether the step computes what this model computes."""
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
        and dtype in _DTYPES
        and all(tensor.dtype is dtype and tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors)
        and model.lm_head.bias is None
        and all(type(linear) is nn.Linear for linear in _linears(model))
    )


def _of_layer(layer: Any) -> Iterator[Any]:
    for name in _PROJECTIONS:
        yield getattr(layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp, name)


def _linears(model: Any) -> Iterator[Any]:
    for layer in model.model.layers:
        yield from _of_layer(layer)


def _named_linears(model: Any) -> Iterator[tuple[str, Any]]:
    names = {id(module): name for name, module in model.named_modules()}
    for linear in _linears(model):
        yield names[id(linear)], linear


def _plain_lora(module: Any) -> tuple[Tensor, Tensor, float] | None:
    """A (rank, in), B (out, rank) and the scale of a projection's one adapter; None where it is more than that."""
    if type(module) is not LoraLinear or len(module.active_adapters) != 1 or module.merged or module.fan_in_fan_out:
        return None
    name = module.active_adapters[0]
    a, b = module.lora_A[name], module.lora_B[name]
    if name in module.lora_variant or b.bias is not None or set(module.lora_A) != {name}:
        return None
    return _fp32(a.weight), _fp32(b.weight), float(module.scaling[name])


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32).contiguous()
