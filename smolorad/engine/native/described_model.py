"""A decoder's description and weights as C reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.domain import Precision
from smolorad.engine.native.description import NORMS, Decoder, Experts, Layer, Linear, Norm, Rope
from smolorad.engine.native.library import FORMAT_OF, Format, Library, Matrix, aligned_copy
from smolorad.engine.native.packed_formats import packed_format, parts_of
from smolorad.engine.native.row_source import RowSource
from smolorad.engine.native.structs import (
    ExpertStruct,
    LayerStruct,
    MatrixStruct,
    ModelNormStruct,
    ModelStruct,
    RopeStruct,
)
from smolorad.engine.runtime.dtypes import to_fp32

Weights = Mapping[str, NDArray[Any]]
Sources = Mapping[str, RowSource]
NO_SOURCES: Sources = MappingProxyType({})


class DescribedModel:
    """Structures for C, and all memory that they point at. Exact matrices are read where they are, others are packed copies."""

    def __init__(
        self,
        library: Library,
        decoder: Decoder,
        weights: Weights,
        precision: Precision,
        sources: Sources,
        cache_format: Format,
    ) -> None:
        """`sources` are parameters that are only packed, and need not be among the weights."""
        self._library = library
        self._decoder = decoder
        self._weights = weights
        self._precision = precision
        self._sources = sources
        self._cache_format = cache_format
        self._kept: list[Any] = []
        self._matrices: list[Matrix] = []
        self._unread_nbytes = 0  # of experts that a token does not take
        self.struct = self._model()
        self._sources = NO_SOURCES  # their buffers are no longer needed

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return sum(matrix.nbytes for matrix in self._matrices)

    @property
    def token_nbytes(self) -> int:
        """Bytes of matrices that a token reads."""
        return self.nbytes - self._unread_nbytes

    def _model(self) -> ModelStruct:
        decoder, layout = self._decoder, self._decoder.heads_layout
        experts = next(decoder.experts, None)
        ropes = (*decoder.ropes, *decoder.long_ropes)
        return ModelStruct(
            layers=len(decoder.layers),
            hidden=decoder.hidden,
            heads=decoder.heads,
            kv_heads=decoder.kv_heads,
            head_dim=decoder.head_dim,
            inner=decoder.inner,
            vocab=decoder.vocabulary,
            format=FORMAT_OF[self._weights[decoder.embedding].dtype],
            cache_format=self._cache_format,
            qkv_width=layout.width,
            group_step=layout.group_step,
            key=layout.key,
            key_step=layout.key_step,
            value=layout.value,
            value_step=layout.value_step,
            activation=decoder.activation,
            parallel=decoder.parallel,
            joint_norms=decoder.joint_norms,
            ropes=len(decoder.ropes),
            first_position=decoder.first_position,
            rounded_slopes=decoder.rounded_slopes,
            experts=experts.count if experts else 0,
            active_experts=experts.active if experts else 0,
            normalized_experts=bool(experts and experts.normalized),
            embedding_scale=decoder.embedding_scale,
            residual_scale=decoder.residual_scale,
            attention_scale=decoder.attention_scale,
            score_cap=decoder.score_cap,
            slope_scale=decoder.slope_scale,
            logit_scale=decoder.logit_scale,
            logit_cap=decoder.logit_cap,
            embedding=self._weights[decoder.embedding].ctypes.data,
            positions=self._weights[decoder.positions].ctypes.data if decoder.positions else None,
            embedding_norm=self._norm(decoder.embedding_norm),
            final_norm=self._norm(decoder.final_norm),
            head=self._head(),
            head_bias=self._vector([decoder.head_bias]) if decoder.head_bias else None,
            rope=self._keep((RopeStruct * len(ropes))(*map(self._rope, ropes))),
            slopes=self._numbers(np.array(decoder.slopes, dtype=np.float32)) if decoder.slopes else None,
            layer=self._keep((LayerStruct * len(decoder.layers))(*map(self._layer, decoder.layers))),
        )

    def _layer(self, layer: Layer) -> LayerStruct:
        struct = LayerStruct(rope=layer.rope, window=layer.window)
        for at, (linear, part) in enumerate(zip(layer.projections, parts_of(layer), strict=True)):
            if linear is not None:
                struct.weight[at] = self._linear(linear, part)
                if linear.bias_name is not None:
                    struct.bias[at] = self._numbers(to_fp32(self._weights[linear.bias_name][linear.span]))
        for name, norm in zip(NORMS, layer.norms, strict=True):
            setattr(struct, name, self._norm(norm))
        if layer.experts is not None:
            struct.router = self._exact(self._weights[layer.experts.router])
            struct.expert = self._experts(layer.experts)
        return struct

    def _linear(self, linear: Linear, part: str) -> MatrixStruct:
        if linear.weight in self._sources:
            return self._packed(linear.weight, linear.first, linear.rows, part)
        weight = self._weights[linear.weight]
        return self._matrix((weight.T if linear.transposed else weight)[linear.span], part)

    def _experts(self, experts: Experts) -> Any:
        table, before, inner, hidden = (ExpertStruct * experts.count)(), self.nbytes, experts.inner, self._decoder.hidden
        for at, struct in enumerate(table):
            struct.gate = self._expert(experts.gate_up, at, slice(0, inner), 2 * inner)
            struct.up = self._expert(experts.gate_up, at, slice(inner, 2 * inner), 2 * inner)
            struct.down = self._expert(experts.down, at, slice(0, hidden), hidden)
        self._unread_nbytes += (self.nbytes - before) // experts.count * (experts.count - experts.active)
        return self._keep(table)

    def _expert(self, name: str, at: int, span: slice, rows: int) -> MatrixStruct:
        """Rows of one expert, of `rows` that each has."""
        if name in self._sources:
            return self._packed(name, at * rows + span.start, span.stop - span.start, "expert")
        return self._matrix(self._weights[name][at][span], "expert")

    def _head(self) -> MatrixStruct:
        head = self._decoder.head
        if head in self._sources:
            return self._packed(head, 0, self._sources[head].shape[0], "head")
        return self._matrix(self._weights[head], "head")

    def _packed(self, name: str, first: int, rows: int, part: str) -> MatrixStruct:
        source = self._sources[name]
        return self._pack(source.rows(first, first + rows), rows, source.columns, part)

    def _matrix(self, weight: NDArray[Any], part: str) -> MatrixStruct:
        if self._precision is Precision.EXACT:
            return self._exact(weight)
        return self._pack([np.ascontiguousarray(weight)], len(weight), weight.shape[1], part)

    def _pack(self, pieces: Iterable[NDArray[Any]], rows: int, columns: int, part: str) -> MatrixStruct:
        format, prefer_int4 = packed_format(self._precision, part), self._precision is Precision.INT4
        matrix = self._library.pack_rows(pieces, rows, columns, format, prefer_int4=prefer_int4)
        self._matrices.append(matrix)
        return matrix.struct()

    def _exact(self, weight: NDArray[Any]) -> MatrixStruct:
        matrix = Matrix.of(weight)
        self._matrices.append(matrix)
        return matrix.struct()

    def _norm(self, norm: Norm | None) -> ModelNormStruct:
        if norm is None:
            return ModelNormStruct()
        weight = self._joined(norm.weights) + np.float32(norm.offset) if norm.weights else np.ones(norm.width, dtype=np.float32)
        return ModelNormStruct(
            weight=self._numbers(weight),
            bias=self._vector(norm.biases) if norm.biases else None,
            kind=norm.kind,
            width=norm.width,
            head_step=norm.width if weight.size > norm.width else 0,
            eps=norm.eps,
        )

    def _rope(self, rope: Rope) -> RopeStruct:
        return RopeStruct(
            inverse_frequencies=self._numbers(np.array(rope.inverse_frequencies, dtype=np.float32)),
            pairs=len(rope.inverse_frequencies),
            interleaved=rope.interleaved,
            scale=rope.scale,
        )

    def _joined(self, names: Sequence[str]) -> NDArray[np.float32]:
        return np.concatenate([to_fp32(self._weights[name]).reshape(-1) for name in names])

    def _vector(self, names: Sequence[str]) -> int:
        return self._numbers(self._joined(names))

    def _numbers(self, array: NDArray[np.float32]) -> int:
        return int(self._keep(aligned_copy(array)).ctypes.data)

    def _keep(self, owner: Any) -> Any:
        """Keeps what a structure points at."""
        self._kept.append(owner)
        return owner
