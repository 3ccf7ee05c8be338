"""The native step: one call for the next tokens of some sequences."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.domain import Precision
from smolorad.engine.native.kv_cache import KvCache
from smolorad.engine.native.library import FORMAT_OF, GROUP, Format, Library, Matrix, aligned_fp32
from smolorad.engine.native.model_shape import EMBEDDING, FINAL_NORM, HEAD, Shape
from smolorad.engine.native.structs import LayerStruct, LoraStruct, MatrixStruct, ModelStruct, SequenceStruct
from smolorad.engine.runtime.buffers import BufferPool
from smolorad.engine.runtime.dtypes import to_fp32

MAX_ROWS = 128  # tokens of all sequences together in one step
# Apple's products in fp32 run on a unit of their own; elsewhere ours take two thirds of torch's time.
ACCELERATE = sys.platform == "darwin"


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter as the step reads it."""

    table: Any  # LoraStruct for each projection of each layer
    projections: Mapping[str, tuple[int, int]]  # of the model that it is for
    arrays: tuple[NDArray[np.float32], ...]  # what its pointers point at


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's part in a step: the tokens to compute, and what came before. The cache is as much longer afterwards."""

    tokens: Sequence[int]
    cache: KvCache
    lora: Lora | None = None
    every: bool = False  # logits after every token, not only after the last


class NativeModel:
    """A model's weights as the step reads them: where they are if they are exact, packed copies otherwise."""

    def __init__(
        self, library: Library, shape: Shape, weights: Mapping[str, NDArray[Any]], precision: Precision = Precision.EXACT
    ) -> None:
        """`weights` by name, all matrices in one format of FORMAT_OF, as `Shape.misfit` wants them.

        Raises MemoryError, and ValueError for weights that the step would read beyond their end.
        """
        _check(shape, weights, precision)
        self._library = library
        self._weights = weights  # at which the pointers point
        self._pool = BufferPool()
        self._small_arrays: list[NDArray[np.float32]] = []
        self._matrices: list[Matrix] = []
        self._layers = (LayerStruct * shape.layers)()
        self.shape = shape
        self.dtype, self.vocabulary = weights[EMBEDDING].dtype, shape.vocabulary
        self._readable = len(weights[EMBEDDING])
        self.precision = precision
        # (out, in) of each, in the order of the layers and of PROJECTIONS.
        self.projections: dict[str, tuple[int, int]] = {}
        for number, target in enumerate(self._layers):
            self._fill(target, number)
        # Four bits are too few for the head: every logit is one of its products.
        head = self._matrix(
            weights[EMBEDDING if shape.tied else HEAD], precision if precision is Precision.EXACT else Precision.INT8
        )
        self._described = ModelStruct(
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            inner=shape.inner,
            vocab=self.vocabulary,
            format=FORMAT_OF[self.dtype],
            eps=shape.eps,
            rope_scale=shape.rope_scale,
            attention_scale=shape.attention_scale,
            embedding=weights[EMBEDDING].ctypes.data,
            head=head,
            final_norm=self._small(weights[FINAL_NORM]),
            inverse_frequencies=self._small(np.array(shape.inverse_frequencies, dtype=np.float32)),
            layer=self._layers,
        )
        self._engine = library.open(ctypes.byref(self._described), library.pool)
        if not self._engine:
            raise MemoryError("no memory for the native step")
        weakref.finalize(self, library.close, self._engine)
        # Prompts of at least this many tokens are prefilled in a step of their own; 0 means never.
        self.min_prefill_tokens = library.min_prefill_tokens(FORMAT_OF[self.dtype]) if precision is Precision.EXACT else 0
        self.takes_prompts = takes_prompts(library, self.dtype, precision)

    @property
    def nbytes(self) -> int:
        """Bytes that a step reads of weights."""
        return sum(matrix.nbytes for matrix in self._matrices)

    def cache(self, capacity: int, expected_tokens: int = 0) -> KvCache:
        """Room for a sequence of `capacity` tokens, of which `expected_tokens` are certain to come."""
        shape = self.shape
        return KvCache(shape.layers, shape.kv_heads, capacity, shape.head_dim, self.dtype, expected_tokens, self._pool)

    def release_idle_memory(self) -> None:
        """Returns the memory of released caches to the system."""
        self._pool.clear()

    def lora_of(self, products: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32], float]]) -> Lora:
        """The adapter that adds scale * B (A x) to the projections named: A (rank, in), B (out, rank), scale."""
        table = (LoraStruct * len(self.projections))()
        arrays: list[NDArray[np.float32]] = []
        for at, (name, (out, cols)) in enumerate(self.projections.items()):
            if name in products:
                a, b, scale = products[name]
                if a.ndim != 2 or a.shape[1] != cols or b.shape != (out, len(a)):
                    raise ValueError(f"an adapter of {a.shape} and {b.shape} does not fit {name}, which is {(out, cols)}")
                pair = (_copy(a), _copy(b.T))
                arrays += pair
                table[at] = LoraStruct(pair[0].ctypes.data, pair[1].ctypes.data, a.shape[0], scale)
        return Lora(table, self.projections, tuple(arrays))

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """Computes at most MAX_ROWS tokens of some sequences; the ids are below `vocabulary`.

        The logits after each part's last token, or after every one where the part wants them, in order: (n, vocabulary).
        Raises MemoryError, and ValueError for what is not so: C would read and write beyond its memory.
        """
        if sum(len(part.tokens) for part in parts) > MAX_ROWS:
            raise ValueError(f"a step takes at most {MAX_ROWS} tokens")
        for part in parts:
            self._check_part(part)
        logits = aligned_fp32(sum(len(part.tokens) if part.every else 1 for part in parts), self.vocabulary)
        table = (SequenceStruct * len(parts))()
        for at, part in enumerate(parts):
            keys, values = part.cache.addresses
            table[at] = SequenceStruct(
                tokens=(ctypes.c_int32 * len(part.tokens))(*part.tokens),
                count=len(part.tokens),
                position=part.cache.length,
                capacity=part.cache.capacity,
                keys=keys,
                values=values,
                lora=part.lora.table if part.lora is not None else None,
                every=part.every,
            )
        if self._library.step(self._engine, table, len(parts), logits.ctypes.data):
            raise MemoryError("no memory for a step of this many tokens")
        for part in parts:
            part.cache.advance(len(part.tokens))
        return logits

    def _check_part(self, part: Part) -> None:
        shape, cache = self.shape, part.cache
        if not part.tokens or min(part.tokens) < 0 or max(part.tokens) >= self._readable:
            raise ValueError(f"the tokens are none, or not all from 0 to below {self._readable}")
        known = (shape.layers, 2, shape.kv_heads, cache.capacity, shape.head_dim)
        if cache.array.shape != known or cache.array.dtype != self.dtype:
            raise ValueError(f"a cache of {cache.array.shape} is another model's")
        if not 0 <= cache.length <= cache.capacity - len(part.tokens):
            raise ValueError(f"a cache of {cache.length} tokens has no room for {len(part.tokens)} more")
        if part.lora is not None and part.lora.projections is not self.projections:
            raise ValueError("the adapter is another model's")

    def _fill(self, target: LayerStruct, number: int) -> None:
        for at, name in enumerate(self.shape.projections(number)):
            weight = self._weights[f"{name}.weight"]
            self.projections[name] = weight.shape[0], weight.shape[1]
            target.weight[at] = self._matrix(weight, self.precision)
            target.bias[at] = self._small_of(f"{name}.bias")
        layer = self.shape.layer(number)
        target.attention_norm = self._small(self._weights[f"{layer}input_layernorm.weight"])
        target.mlp_norm = self._small(self._weights[f"{layer}post_attention_layernorm.weight"])
        target.q_norm = self._small_of(f"{layer}self_attn.q_norm.weight")
        target.k_norm = self._small_of(f"{layer}self_attn.k_norm.weight")

    def _matrix(self, weight: NDArray[Any], precision: Precision) -> MatrixStruct:
        match precision:
            case Precision.EXACT:
                matrix = Matrix.of(weight)
            case Precision.INT8:
                matrix = self._library.pack(weight, Format.INT8)
            case Precision.INT4:
                matrix = self._library.pack(weight, Format.INT4)
        self._matrices.append(matrix)
        return matrix.struct()

    def _small(self, array: NDArray[Any]) -> int:
        self._small_arrays.append(_copy(to_fp32(array)))
        return self._small_arrays[-1].ctypes.data

    def _small_of(self, name: str) -> int | None:
        """None where the model has no such weight."""
        return self._small(self._weights[name]) if name in self._weights else None


@dataclass(frozen=True, slots=True)
class NativeRunner:
    """A model that runs natively, with an adapter or without."""

    model: NativeModel
    lora: Lora | None = None


def _check(shape: Shape, weights: Mapping[str, NDArray[Any]], precision: Precision) -> None:
    if reason := shape.misfit({name: array.shape for name, array in weights.items()}):
        raise ValueError(f"the native step does not know such a model: {reason}")
    matrices = {name: array for name, array in weights.items() if array.ndim == 2}
    dtype = weights[EMBEDDING].dtype
    if dtype not in FORMAT_OF or not all(one.dtype == dtype and one.flags.c_contiguous for one in matrices.values()):
        raise ValueError("the native step reads matrices of one format, row after row")
    if precision is not Precision.EXACT and not packable({name: one.shape for name, one in matrices.items()}):
        raise ValueError(f"the native step packs matrices whose columns are a multiple of {GROUP}")


def _copy(array: NDArray[np.float32]) -> NDArray[np.float32]:
    copy = aligned_fp32(*array.shape)
    copy[...] = array
    return copy


def takes_prompts(library: Library, dtype: np.dtype[Any], precision: Precision) -> bool:
    """Whether the step is the way to a long prompt.

    Elsewhere torch's larger products are faster; but for packed weights it would need the exact ones.
    """
    format = FORMAT_OF[dtype]
    fast = library.min_prefill_tokens(format) > 0 or (format is Format.FP32 and not ACCELERATE)
    return fast or precision is not Precision.EXACT


def packable(parameters: Mapping[str, Sequence[int]]) -> bool:
    """Whether every matrix among parameters of these shapes can be packed: its columns fall into whole groups."""
    return all(shape[1] % GROUP == 0 for shape in parameters.values() if len(shape) == 2)
