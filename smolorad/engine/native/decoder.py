"""The native step: one call for the next tokens of some sequences."""

from __future__ import annotations

import ctypes
import hashlib
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from smolorad.domain import KvDtype, Precision
from smolorad.engine.native.described_model import NO_SOURCES, DescribedModel, Sources, Weights
from smolorad.engine.native.description import Decoder
from smolorad.engine.native.kv_cache import KvCache
from smolorad.engine.native.library import FORMAT_OF, GROUP, Format, Library, aligned_fp32
from smolorad.engine.native.lora import Lora
from smolorad.engine.native.misfit import misfit
from smolorad.engine.native.row_source import RowSource
from smolorad.engine.native.structs import SequenceStruct
from smolorad.engine.runtime.buffers import BufferPool

MAX_ROWS = 128  # tokens of all sequences together in one step
# Apple's products in fp32 run on a unit of their own; elsewhere ours take two thirds of torch's time.
ACCELERATE = sys.platform == "darwin"


_CACHE_FORMATS = {KvDtype.BFLOAT16: Format.BF16, KvDtype.INT8: Format.INT8}
_CACHE_TYPES = {format: dtype for dtype, format in FORMAT_OF.items()}


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
        self,
        library: Library,
        decoder: Decoder,
        weights: Weights,
        precision: Precision = Precision.EXACT,
        sources: Sources = NO_SOURCES,
        kv_dtype: KvDtype | None = None,
    ) -> None:
        """`weights` by name, all matrices in one format of FORMAT_OF, as `misfit` wants them.

        `sources` are parameters that are only packed, and need not be among the weights. `kv_dtype` is by default that of the
        weights. Raises MemoryError, and ValueError for weights that the step would read beyond their end.
        """
        _check(decoder, {**sources, **weights}, precision)
        self._library = library
        self._pool = BufferPool()
        self.decoder = decoder
        embedding = weights[decoder.embedding]
        self.dtype, self.vocabulary = embedding.dtype, decoder.vocabulary
        self._readable = len(embedding)
        # A token beyond the last learned position has none.
        self._positions = len(weights[decoder.positions]) - decoder.first_position if decoder.positions else sys.maxsize
        self.precision = precision
        self._cache_format = _CACHE_FORMATS[kv_dtype] if kv_dtype is not None else FORMAT_OF[self.dtype]
        self._described = DescribedModel(library, decoder, weights, precision, sources, self._cache_format)
        self._engine = library.open(ctypes.byref(self._described.struct), library.pool)
        if not self._engine:
            raise MemoryError("no memory for the native step")
        weakref.finalize(self, library.close, self._engine)
        # Prompts of at least this many tokens are prefilled in a step of their own; 0 means never.
        self.min_prefill_tokens = library.min_prefill_tokens(FORMAT_OF[self.dtype]) if precision is Precision.EXACT else 0
        # Whether torch's forward pass fills the same KV cache: Falcon's code stores a key for each query.
        is_torchs = self._cache_format is FORMAT_OF[self.dtype]
        self.shares_cache = is_torchs and (decoder.heads_side_by_side or decoder.heads == decoder.kv_heads)
        self.takes_prompts = takes_prompts(library, self.dtype, precision) or not self.shares_cache

    @property
    def nbytes(self) -> int:
        """Bytes of its weights, or of their packed copies."""
        return self._described.nbytes

    @property
    def token_nbytes(self) -> int:
        """Bytes of them that a token reads: not those of experts that it does not take."""
        return self._described.token_nbytes

    def cache(self, capacity: int, expected_tokens: int = 0, *, is_long: bool = False) -> KvCache:
        """Room for a sequence of `capacity` tokens, of which `expected_tokens` are certain to come.

        A sequence of more than the decoder's `short_context` tokens needs one that is long.
        """
        layers, heads, (dtype, width) = len(self.decoder.layers), self.decoder.kv_heads, self._cache_row
        return KvCache(layers, heads, capacity, width, dtype, expected_tokens, self._pool, is_long=is_long)

    @property
    def cache_token_nbytes(self) -> int:
        """Bytes of a token's keys and values."""
        return _token_nbytes(self.decoder, self._cache_format)

    @property
    def _cache_row(self) -> tuple[np.dtype[Any], int]:
        """The type of a cache's array and the length of its rows, as cache_row.h lays them out."""
        return _row_of(self.decoder, self._cache_format)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what its numbers depend on besides the weights, in hexadecimal."""
        parts = (self.decoder, self._library.build, self.dtype.str, self.precision, self._cache_format, self._cache_row[1])
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def release_idle_memory(self) -> None:
        """Returns the memory of released caches to the system."""
        self._pool.clear()

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
                first_rope=len(self.decoder.ropes) if self.decoder.long_ropes and part.cache.is_long else 0,
            )
        if self._library.step(self._engine, table, len(parts), logits.ctypes.data):
            raise MemoryError("no memory for a step of this many tokens")
        for part in parts:
            part.cache.advance(len(part.tokens))
        return logits

    def _check_part(self, part: Part) -> None:
        decoder, cache = self.decoder, part.cache
        if not part.tokens or min(part.tokens) < 0 or max(part.tokens) >= self._readable:
            raise ValueError(f"the tokens are none, or not all from 0 to below {self._readable}")
        dtype, width = self._cache_row
        known = (len(decoder.layers), 2, decoder.kv_heads, cache.capacity, width)
        if cache.array.shape != known or cache.array.dtype != dtype:
            raise ValueError(f"a cache of {cache.array.shape} is another model's")
        if not 0 <= cache.length <= cache.capacity - len(part.tokens):
            raise ValueError(f"a cache of {cache.length} tokens has no room for {len(part.tokens)} more")
        tokens = cache.length + len(part.tokens)
        if tokens > self._positions or (tokens > decoder.short_context > 0 and not cache.is_long):
            raise ValueError(f"a cache of {tokens} tokens goes beyond the model's positions")
        if part.lora is not None and part.lora.decoder is not decoder:
            raise ValueError("the adapter is another model's")


def cache_token_nbytes(decoder: Decoder, kv_dtype: KvDtype) -> int:
    """Bytes of a token's keys and values in a KV cache of this format."""
    return _token_nbytes(decoder, _CACHE_FORMATS[kv_dtype])


def _token_nbytes(decoder: Decoder, format: Format) -> int:
    dtype, width = _row_of(decoder, format)
    return 2 * len(decoder.layers) * decoder.kv_heads * width * dtype.itemsize


def _row_of(decoder: Decoder, format: Format) -> tuple[np.dtype[Any], int]:
    if format is Format.INT8:
        return np.dtype(np.uint8), decoder.head_dim + 2 * -(-decoder.head_dim // GROUP)
    return _CACHE_TYPES[format], decoder.head_dim


@dataclass(frozen=True, slots=True)
class NativeRunner:
    """A model that runs natively, with an adapter or without."""

    model: NativeModel
    lora: Lora | None = None


def _check(decoder: Decoder, weights: Mapping[str, NDArray[Any] | RowSource], precision: Precision) -> None:
    if reason := misfit(decoder, {name: array.shape for name, array in weights.items()}):
        raise ValueError(f"the native step does not know such a model: {reason}")
    matrices = {name: one for name, one in weights.items() if len(one.shape) > 1}
    dtype = weights[decoder.embedding].dtype
    if dtype not in FORMAT_OF or not all(one.dtype == dtype for one in matrices.values()):
        raise ValueError("the native step reads matrices of one format")
    transposed = {linear.weight for linear in decoder.linears if linear.transposed}
    arrays = [one.T if name in transposed else one for name, one in matrices.items() if isinstance(one, np.ndarray)]
    if precision is Precision.EXACT and not (len(arrays) == len(matrices) and all(one.flags.c_contiguous for one in arrays)):
        raise ValueError("the native step reads matrices row after row")
    if precision is not Precision.EXACT and not packable(decoder):
        raise ValueError(f"the native step packs matrices whose columns are a multiple of {GROUP}")


def takes_prompts(library: Library, dtype: np.dtype[Any], precision: Precision) -> bool:
    """Whether the step is the way to a long prompt.

    Elsewhere torch's larger products are faster; but for packed weights it would need the exact ones.
    """
    format = FORMAT_OF[dtype]
    fast = library.min_prefill_tokens(format) > 0 or (format is Format.FP32 and not ACCELERATE)
    return fast or precision is not Precision.EXACT


def packable(decoder: Decoder) -> bool:
    """Whether every matrix can be packed: its columns fall into whole groups."""
    columns = {decoder.hidden, *(linear.columns for linear in decoder.linears), *(one.inner for one in decoder.experts)}
    return all(count % GROUP == 0 for count in columns)
