"""The parameters of a described model: those that generation reads, and all of them exactly where a training wants them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from smolora.common.paths import cache_path
from smolorad.domain import Dtype, Precision
from smolorad.engine.model.blueprint import Blueprint
from smolorad.engine.model.folder import WeightFile
from smolorad.engine.model.weights import ARRAY_DTYPES, Weights, read_weights, row_sources
from smolorad.engine.native.row_source import RowSource


class NativeWeights:
    """Where generation reads packed copies, matrices are packed from the model's files, a few rows at a time.

    Their exact numbers are then read on first use, into a file of the engine's own if the disk has room. The embeddings, of
    which a token reads one row, are in such a file from the beginning.
    """

    def __init__(self, files: tuple[WeightFile, ...], blueprint: Blueprint, dtype: Dtype, precision: Precision) -> None:
        """Reads what generation does not pack. Raises as `read_weights`."""
        self._files = files
        self._blueprint = blueprint
        self._dtype = dtype
        decoder = blueprint.decoder
        self._transposed = frozenset(linear.weight for linear in decoder.linears if linear.transposed)
        packed: set[str] = set()
        if precision is not Precision.EXACT:
            experts = {name for one in decoder.experts for name in (one.gate_up, one.down)}
            packed = {linear.weight for linear in decoder.linears} | experts | {decoder.head}
        # Tied embeddings are both: read as they are for tokens, packed for logits.
        unpacked = [name for name in blueprint.parameters if name not in packed or name == decoder.embedding]
        self._read = self._weights(unpacked, is_mapped=bool(packed))
        self._all: Weights | None = None if packed else self._read
        self._packed = packed

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The parameters that generation reads as they are."""
        return self._read.arrays

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters, exactly."""
        return sum(map(math.prod, self._blueprint.parameters.values())) * ARRAY_DTYPES[self._dtype].itemsize

    @property
    def memory_nbytes(self) -> int:
        """Bytes of exact parameters that stay in memory."""
        found = [one for one in (self._read, self._all) if one is not None and one.mapped_weights is None]
        return sum(array.nbytes for array in {id(a): a for one in found for a in one.arrays.values()}.values())

    def sources(self) -> dict[str, RowSource]:
        """The parameters that are packed."""
        shapes = {name: self._blueprint.parameters[name] for name in self._packed}
        return row_sources(self._files, shapes, self._dtype, sources=self._blueprint.sources, transposed=self._transposed)

    def all(self) -> Mapping[str, NDArray[Any]]:
        """Every parameter; raises as `read_weights`, for the files may be others by now."""
        if self._all is None:
            self._all = self._weights(list(self._blueprint.parameters), is_mapped=True)
        return self._all.arrays

    def release_idle_memory(self) -> None:
        """Gives back the memory of parameters that lie in files; the next read brings the pages in again."""
        for weights in (self._read, self._all):
            if weights is not None and weights.mapped_weights is not None:
                weights.mapped_weights.release_idle_memory()

    def _weights(self, names: list[str], *, is_mapped: bool) -> Weights:
        below: Path | None = cache_path() / "weights" if is_mapped else None
        shapes = {name: self._blueprint.parameters[name] for name in names}
        return read_weights(
            self._files,
            shapes,
            self._dtype,
            sources=self._blueprint.sources,
            transposed=self._transposed,
            mapped_below=below,
        )
