"""What a described decoder takes in memory, from its description and the shapes of its parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from smolorad.domain import Dtype, KvDtype, Precision
from smolorad.engine.model.estimate import ITEM_BYTES, Choice, ModelSizes
from smolorad.engine.native.decoder import MAX_ROWS, cache_token_nbytes, packable
from smolorad.engine.native.description import Decoder
from smolorad.engine.native.library import GROUP, packed_nbytes
from smolorad.engine.native.packed_formats import packed_format, parts_of

PACKED = (Precision.INT8, Precision.INT4)
# Measured on Linux: Python with numpy, protobuf and what else the engine imports, and the same with torch and transformers.
PROCESS_BYTES, TORCH_PROCESS_BYTES = 63_000_000, 375_000_000
# A tokenizer takes about this many times the bytes of its description, and an answer this many bytes a token of the vocabulary.
_TOKENIZER, _VOCABULARY_BYTES, _COMPACT = 2.7, 100, 2


def native_sizes(
    decoder: Decoder,
    parameters: Mapping[str, Sequence[int]],
    dtype: Dtype,
    *,
    context_length: int,
    tokenizer_bytes: int,
    threads: int,
    kv_dtype: KvDtype | None = None,
    process_bytes: int = PROCESS_BYTES,
) -> ModelSizes:
    """The sizes of a model whose parameters have these shapes; `tokenizer_bytes` are those of the tokenizer's description."""
    choices = choices_of(dtype, packs=packable(decoder))
    numbers = sum(map(math.prod, parameters.values()))
    embeddings = parameters[decoder.embedding][0]
    return ModelSizes(
        weights={
            one: numbers * ITEM_BYTES[one.dtype] if one.precision is Precision.EXACT else _packed_bytes(decoder, one)
            for one in choices
        },
        cache_token_numbers=2 * len(decoder.layers) * decoder.kv_heads * decoder.head_dim,
        kv_dtype=kv_dtype,
        cache_token_bytes=0 if kv_dtype is None else cache_token_nbytes(decoder, kv_dtype),
        context_length=context_length,
        workspace_bytes=process_bytes + text_bytes(tokenizer_bytes, embeddings) + _step_bytes(decoder, threads),
    )


def choices_of(dtype: Dtype, *, packs: bool) -> list[Choice]:
    """The ways to load a model whose number format is `dtype`, the most exact first."""
    formats = [dtype, *([Dtype.BFLOAT16] if dtype is Dtype.FLOAT32 else [])]
    return [*(Choice(one, Precision.EXACT) for one in formats), *(Choice(dtype, one) for one in PACKED if packs)]


def described_bytes(described: Path, compact: Path | None = None) -> int:
    """Bytes of a tokenizer's description as the library writes it for people to read, or about that much of a compact one."""
    if described.is_file():
        return described.stat().st_size
    return _COMPACT * compact.stat().st_size if compact is not None else 0


def text_bytes(tokenizer_bytes: int, embeddings: int) -> int:
    """What a tokenizer takes, and what is computed once for each token of the vocabulary."""
    return int(_TOKENIZER * tokenizer_bytes) + _VOCABULARY_BYTES * embeddings


def _packed_bytes(decoder: Decoder, choice: Choice) -> int:
    """Of all matrices; the embeddings lie in a file of the engine's, and every other parameter is small.

    What was made from four bits takes less in INT4, which only the weights show.
    """
    hidden = decoder.hidden
    total = packed_nbytes(packed_format(choice.precision, "head"), decoder.vocabulary, hidden)
    for layer in decoder.layers:
        for linear, part in zip(layer.projections, parts_of(layer), strict=True):
            if linear is not None:
                total += packed_nbytes(packed_format(choice.precision, part), linear.rows, linear.columns)
    format = packed_format(choice.precision, "expert")
    for experts in decoder.experts:
        matrices = 2 * packed_nbytes(format, experts.inner, hidden) + packed_nbytes(format, hidden, experts.inner)
        total += experts.count * (matrices + hidden * ITEM_BYTES[choice.dtype])  # with its row of the router, which is exact
    return total


def _step_bytes(decoder: Decoder, threads: int) -> int:
    """The buffers of a native step, as `decode.c` allocates them, but for the smallest."""
    queries, inner = decoder.heads * decoder.head_dim, max(decoder.inner, 1)
    active = max((one.active for one in decoder.experts), default=1)
    shared = 4 * MAX_ROWS * (2 * decoder.hidden + decoder.heads_layout.width + queries + 2 * active * inner)
    groups = MAX_ROWS * (max(inner, decoder.hidden, queries) // GROUP + 1)
    each = groups * (4 * GROUP + 12) + 4 * MAX_ROWS * 2 * decoder.hidden
    return shared + threads * each + 4 * decoder.vocabulary
