"""The native step: which models it knows, and one call for the next tokens of some sequences."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from smolorad.domain import Precision
from smolorad.engine.kvcache import KvCache
from smolorad.engine.native.library import FORMAT_OF, GROUP, Format, Library, Matrix, MatrixStruct, Pointer

MAX_ROWS = 128  # tokens of all sequences together in one step
_KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Their frequencies stay what they are while a sequence grows.
_STEADY_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Layer(ctypes.Structure):
    _fields_ = (
        ("weight", MatrixStruct * len(_PROJECTIONS)),
        ("bias", Pointer * len(_PROJECTIONS)),
        ("attention_norm", Pointer),
        ("mlp_norm", Pointer),
        ("q_norm", Pointer),
        ("k_norm", Pointer),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab", "format")),
        *((name, ctypes.c_float) for name in ("eps", "rope_scale", "attention_scale")),
        ("embedding", Pointer),
        ("head", MatrixStruct),
        *((name, Pointer) for name in ("final_norm", "inverse_frequencies")),
        ("layer", ctypes.POINTER(_Layer)),
    )


class _Lora(ctypes.Structure):
    _fields_ = (("a", Pointer), ("b", Pointer), ("rank", ctypes.c_int32), ("scale", ctypes.c_float))


class _Sequence(ctypes.Structure):
    _fields_ = (
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        *((name, ctypes.c_int32) for name in ("count", "position", "capacity")),
        ("keys", ctypes.POINTER(Pointer)),
        ("values", ctypes.POINTER(Pointer)),
        ("lora", ctypes.POINTER(_Lora)),
        ("every", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter as the step reads it."""

    table: Any  # _Lora for each projection of each layer
    kept: tuple[Tensor, ...]  # what its pointers point at


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's part in a step: the tokens to compute, and what came before. The cache is as much longer afterwards."""

    tokens: Sequence[int]
    cache: KvCache
    lora: Lora | None = None
    every: bool = False  # logits after every token, not only after the last


class NativeModel:
    """A model's weights as the step reads them: torch's own where they are exact, packed copies otherwise."""

    def __init__(self, library: Library, model: Any, precision: Precision = Precision.EXACT) -> None:
        """Raises MemoryError; `knows` says whether it can be."""
        config = model.config
        self._library = library
        self._model = model  # whose tensors the pointers point at
        self._small_tensors: list[Tensor] = []
        self._matrices: list[Matrix] = []
        self._layers = (_Layer * config.num_hidden_layers)()
        self.heads, self.head_dim = config.num_key_value_heads, model.model.layers[0].self_attn.head_dim
        self.dtype, self.vocabulary = model.lm_head.weight.dtype, model.lm_head.weight.shape[0]
        self.precision = precision
        self.module_names = tuple(name for name, _ in model.named_modules())
        names = {id(module): name for name, module in model.named_modules()}
        # (out, in) of each, in the order of the layers and of _PROJECTIONS.
        self.projections = {names[id(linear)]: tuple(linear.weight.shape) for linear in _linears(model)}
        for target, layer in zip(self._layers, model.model.layers, strict=True):
            self._fill(target, layer, precision)
        rope = model.model.rotary_emb
        # Four bits are too few for the head: every logit is one of its products.
        head = self._matrix(model.lm_head.weight, precision if precision is Precision.EXACT else Precision.INT8)
        self._described = _Model(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=self.heads,
            head_dim=self.head_dim,
            inner=config.intermediate_size,
            vocab=self.vocabulary,
            format=FORMAT_OF[self.dtype],
            eps=config.rms_norm_eps,
            rope_scale=rope.attention_scaling,
            attention_scale=model.model.layers[0].self_attn.scaling,
            embedding=model.model.embed_tokens.weight.data_ptr(),
            head=head,
            final_norm=self._small(model.model.norm.weight),
            inverse_frequencies=self._small(rope.inv_freq),
            layer=self._layers,
        )
        self._engine = library.open(ctypes.byref(self._described), library.pool)
        if not self._engine:
            raise MemoryError("no memory for the native step")
        weakref.finalize(self, library.close, self._engine)
        # From so many tokens of one sequence on, a step of their own is much cheaper; 0: never.
        self.many = library.many(FORMAT_OF[self.dtype]) if precision is Precision.EXACT else 0
        # Elsewhere torch's larger products are faster for a long prompt; but for packed weights it would need the exact ones.
        self.takes_prompts = self.many > 0 or precision is not Precision.EXACT

    @property
    def nbytes(self) -> int:
        """Bytes that a step reads of weights."""
        return sum(matrix.nbytes for matrix in self._matrices)

    def cache(self, capacity: int) -> KvCache:
        """Room for a sequence of `capacity` tokens."""
        return KvCache(len(self._layers), self.heads, capacity, self.head_dim, self.dtype)

    def lora_of(self, products: Mapping[str, tuple[Tensor, Tensor, float]]) -> Lora:
        """The adapter that adds scale * B (A x) to the projections named: A (rank, in), B (out, rank), scale."""
        table = (_Lora * len(self.projections))()
        kept: list[Tensor] = []
        for at, name in enumerate(self.projections):
            if name in products:
                a, b, scale = products[name]
                pair = (a.detach().to(torch.float32, copy=True).contiguous(), b.detach().float().T.contiguous())
                kept += pair
                table[at] = _Lora(pair[0].data_ptr(), pair[1].data_ptr(), a.shape[0], scale)
        return Lora(table, tuple(kept))

    def step(self, parts: Sequence[Part]) -> Tensor:
        """Computes at most MAX_ROWS tokens of some sequences; the ids are below `vocabulary`.

        The logits after each part's last token, or after every one where the part wants them, in order: (n, vocabulary), fp32.
        """
        logits = torch.empty((sum(len(part.tokens) if part.every else 1 for part in parts), self.vocabulary))
        table = (_Sequence * len(parts))()
        for at, part in enumerate(parts):
            keys, values = part.cache.addresses
            table[at] = _Sequence(
                tokens=(ctypes.c_int32 * len(part.tokens))(*part.tokens),
                count=len(part.tokens),
                position=part.cache.length,
                capacity=part.cache.capacity,
                keys=keys,
                values=values,
                lora=part.lora.table if part.lora is not None else None,
                every=part.every,
            )
        if self._library.step(self._engine, table, len(parts), logits.data_ptr()):
            raise MemoryError("no memory for a step of so many tokens")
        for part in parts:
            part.cache.advance(len(part.tokens))
        return logits

    def _fill(self, target: _Layer, layer: Any, precision: Precision) -> None:
        for at, linear in enumerate(_of_layer(layer)):
            target.weight[at] = self._matrix(linear.weight, precision)
            target.bias[at] = None if linear.bias is None else self._small(linear.bias)
        target.attention_norm = self._small(layer.input_layernorm.weight)
        target.mlp_norm = self._small(layer.post_attention_layernorm.weight)
        if (q_norm := getattr(layer.self_attn, "q_norm", None)) is not None:
            target.q_norm, target.k_norm = self._small(q_norm.weight), self._small(layer.self_attn.k_norm.weight)

    def _matrix(self, weight: Tensor, precision: Precision) -> MatrixStruct:
        match precision:
            case Precision.EXACT:
                matrix = Matrix.of(weight)
            case Precision.INT8:
                matrix = self._library.pack(weight, Format.INT8)
            case Precision.INT4:
                matrix = self._library.pack(weight, Format.INT4)
        self._matrices.append(matrix)
        return matrix.struct()

    def _small(self, tensor: Tensor) -> int:
        self._small_tensors.append(tensor.detach().to(torch.float32, copy=True).contiguous())
        return self._small_tensors[-1].data_ptr()


def knows(model: Any, precision: Precision = Precision.EXACT) -> bool:
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
        and dtype in FORMAT_OF
        and all(tensor.dtype is dtype and tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors)
        and (precision is Precision.EXACT or all(tensor.shape[1] % GROUP == 0 for tensor in tensors))
        and model.lm_head.bias is None
        and all(type(linear) is nn.Linear for linear in _linears(model))
    )


def _of_layer(layer: Any) -> Iterator[Any]:
    for name in _PROJECTIONS:
        yield getattr(layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp, name)


def _linears(model: Any) -> Iterator[Any]:
    for layer in model.model.layers:
        yield from _of_layer(layer)
