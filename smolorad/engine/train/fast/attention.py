"""Causal attention of each text to itself, over texts that lie end to end: no mask over the whole row, no padding outside.

The products are plain batched ones, a block of queries at a time against the keys that it may see. On a CPU in bf16 that is two
to ten times as fast as the flash kernel, whose backward pass is slow for short texts. Probabilities are computed again in the
backward pass, so memory grows with the tokens, not with their square.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from smolorad.engine.train.fast.batching import Group, Segments
from smolorad.engine.train.fast.kernels import Kernels, kernels
from smolorad.engine.train.fast.layers import apply_rope
from smolorad.engine.train.fast.matmul import product_dtype

_BLOCK = 128  # queries


@dataclass(frozen=True, slots=True)
class Scores:
    """How queries and keys become scores."""

    scale: float
    window: int | None = None  # keys that a query sees, its own the last of them; None: all up to its own
    softcap: float | None = None  # scores are bent to lie between this and its negative
    # ALiBi: what the score of a key gains at each position, (heads, positions), rounded as its model rounds it.
    gains: Tensor | None = None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scale: float,
    dropout: float = 0.0,
    angles: Sequence[Tensor] = (),
    *,
    window: int | None = None,
    softcap: float | None = None,
    gains: Tensor | None = None,
) -> Tensor:
    """Attention of `query` (tokens, heads, width) to `key` (tokens, heads of keys, width) and `value`, which may be of another
    width: (tokens, heads, width of the values).

    Query and key are first rotated (RoPE) by `angles`, if given: cosines and sines, (tokens, half the rotated width) each; what
    is beyond that width stays. The other settings are those of `Scores`. Raises ValueError for what does not go together.
    """
    if reason := _mismatch(query, key, value, segments):
        raise ValueError(reason)
    if window is not None and window >= segments.longest:
        window = None
    scores = Scores(scale, window, softcap, gains)
    plain = not dropout and window is None and softcap is None and gains is None
    native = kernels(query, key, value, *angles) if plain else None
    if native is not None and native.attends(query, key, value, angles):
        out: Tensor = _NativeAttention.apply(query, key, value, segments, scale, angles)
        return out
    if angles:
        cos, sin = (angle[:, None] for angle in angles)
        query, key = apply_rope(query, cos, sin), apply_rope(key, cos, sin)
    if dropout:
        return _with_dropout(query, key, value, segments, scores, dropout)
    out = _Attention.apply(query, key, value, segments, scores)
    return out


def _mismatch(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> str:
    tokens, heads, width = query.shape
    if key.shape != (tokens, key.shape[1], width) or value.shape[:2] != key.shape[:2] or heads % key.shape[1]:
        return f"queries {tuple(query.shape)} cannot attend to keys {tuple(key.shape)} and values {tuple(value.shape)}"
    return "" if segments.tokens == tokens else f"texts of {segments.tokens} tokens do not fill a row of {tokens}"


class _NativeAttention(torch.autograd.Function):
    """All of it by our own library, text by text."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Segments,
        scale: float,
        angles: Sequence[Tensor],
    ) -> Tensor:
        given = [tensor.contiguous() for tensor in (query, key, value)]
        ctx.save_for_backward(*given, *angles)
        ctx.segments, ctx.scale = segments, scale
        out = torch.empty_like(given[0])
        _native(given[0]).attention(given, [out], segments, angles, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        query, key, value, *angles = ctx.saved_tensors
        made = [torch.empty_like(tensor) for tensor in (query, key, value)]
        given = (query, key, value, grads[0].contiguous())
        _native(query).attention(given, made, ctx.segments, angles, ctx.scale)
        return *made, None, None, None


def _native(like: Tensor) -> Kernels:
    found = kernels(like)
    assert found is not None
    return found


class _Attention(torch.autograd.Function):
    """Heads that share a key are rows of one product: (texts * heads of keys, tokens * heads per key, width)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scores: Scores) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.segments, ctx.scores = segments, scores
        shared = query.shape[1] // key.shape[1]
        out = query.new_empty(*query.shape[:2], value.shape[-1])
        for group in segments.groups:
            q, k, v = _rows(query, group, shared), _rows(key, group, 1), _rows(value, group, 1)
            o = q.new_empty(*q.shape[:2], v.shape[-1])
            for block in _blocks(q, k, shared, scores):
                o[:, block.rows] = torch.bmm(block.p, v[:, block.keys])
            _put(out, o, group, shared)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value = ctx.saved_tensors
        shared = query.shape[1] // key.shape[1]
        d_query, d_key, d_value = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (query, key, value))
        for group in ctx.segments.groups:
            q, k, v = _rows(query, group, shared), _rows(key, group, 1), _rows(value, group, 1)
            do = _rows(grads[0], group, shared, pad_with_zero=True)
            dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for block in _blocks(q, k, shared, ctx.scores):
                rows, keys = block.rows, block.keys
                dv[:, keys].baddbmm_(block.p.transpose(1, 2), do[:, rows])
                dp = torch.bmm(do[:, rows], v[:, keys].transpose(1, 2))
                ds = torch.ops.aten._softmax_backward_data(dp, block.p, -1, dp.dtype)
                if block.bent is not None:
                    ds = torch.ops.aten.tanh_backward(ds, block.bent)
                dq[:, rows] = torch.bmm(ds, k[:, keys])
                dk[:, keys].baddbmm_(ds.transpose(1, 2), q[:, rows], alpha=ctx.scores.scale)
            _put(d_query, dq.mul_(ctx.scores.scale), group, shared)
            _put(d_key, dk, group, 1)
            _put(d_value, dv, group, 1)
        return d_query, d_key, d_value, None, None


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of queries."""

    rows: slice
    keys: slice  # that it sees
    p: Tensor  # its probabilities, (batch, rows, keys)
    bent: Tensor | None  # its scores over the soft cap


def _blocks(q: Tensor, k: Tensor, shared: int, how: Scores) -> Iterator[_Block]:
    length = k.shape[1]
    block = min(_BLOCK, length)
    for begin in range(0, length, block):
        end = min(begin + block, length)
        size = end - begin
        first = 0 if how.window is None else max(0, begin - how.window + 1)
        rows, keys = slice(begin * shared, end * shared), slice(first, end)
        # Scaled in the product, without a pass of its own.
        scale, bent = how.scale / (how.softcap or 1.0), None
        scores = torch.baddbmm(q.new_zeros(1), q[:, rows], k[:, keys].transpose(1, 2), beta=0, alpha=scale)
        if how.softcap is not None:
            bent = scores.tanh_()
            scores = bent * how.softcap
        if how.gains is not None:
            _add_gains(scores, how.gains, keys, shared)
        scores[:, :, begin - first :].add_(_beyond(block, shared, 0, q.dtype, q.device)[: size * shared, :size])
        if how.window is not None and (hidden := end - first - how.window) > 0:
            before = begin - first - how.window
            scores[:, :, :hidden].add_(_beyond(block, shared, before, q.dtype, q.device)[: size * shared, :hidden])
        yield _Block(rows, keys, torch.softmax(scores, -1), bent)


def _add_gains(scores: Tensor, gains: Tensor, keys: slice, shared: int) -> None:
    rows, count = scores.shape[1:]
    beyond = max(keys.stop - gains.shape[1], 0)  # padding, which no token sees
    bias = functional.pad(gains, (0, beyond))[:, keys].float().view(1, -1, 1, shared, count)
    scores.view(-1, len(gains) // shared, rows // shared, shared, count).add_(bias)


@functools.lru_cache(maxsize=32)
def _beyond(block: int, shared: int, before: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What hides keys from the queries of a block: (block * shared, block).

    For `before` 0 those that come after the query, where the first column is the first query's own key; for a negative one
    those that the window has passed, where the first query sees `-before` keys fewer than all columns up to its own.
    """
    hidden = torch.full((block, block), -torch.inf, dtype=dtype, device=device)
    hidden = hidden.triu(1) if before == 0 else hidden.tril(before)
    return hidden.repeat_interleave(shared, 0)


def _rows(tokens: Tensor, group: Group, shared: int, *, pad_with_zero: bool = False) -> Tensor:
    """A group of (tokens, heads, width) as (texts * heads of keys, longest * shared, width)."""
    tokens = tokens[group.start : group.end].to(product_dtype(tokens))
    heads, width = tokens.shape[1:]
    if group.padded is not None and pad_with_zero:
        assert group.valid is not None
        tokens = tokens.new_zeros(group.count * group.longest, heads, width).index_copy_(0, group.valid, tokens)
    elif group.padded is not None:
        tokens = tokens.index_select(0, group.padded)
    batch = tokens.reshape(group.count, group.longest, heads // shared, shared, width).transpose(1, 2)
    return batch.reshape(group.count * (heads // shared), group.longest * shared, width)


def _put(tokens: Tensor, rows: Tensor, group: Group, shared: int) -> None:
    """Writes what `_rows` gave back to where it came from, without the padding."""
    heads, width = tokens.shape[1:]
    batch = rows.view(group.count, heads // shared, group.longest, shared, width).transpose(1, 2)
    flat = batch.reshape(group.count * group.longest, heads, width)
    tokens[group.start : group.end] = flat if group.valid is None else flat.index_select(0, group.valid)


def _with_dropout(query: Tensor, key: Tensor, value: Tensor, segments: Segments, how: Scores, dropout: float) -> Tensor:
    """The same with probabilities that are dropped, through autograd."""
    shared = query.shape[1] // key.shape[1]
    out = query.new_empty(*query.shape[:2], value.shape[-1])
    for group in segments.groups:
        q, k, v = _rows(query, group, shared), _rows(key, group, 1), _rows(value, group, 1)
        scores = torch.bmm(q * (how.scale / (how.softcap or 1.0)), k.transpose(1, 2))
        if how.softcap is not None:
            scores = scores.tanh() * how.softcap
        if how.gains is not None:
            scores = scores.clone()
            _add_gains(scores, how.gains, slice(0, group.longest), shared)
        place = torch.arange(group.longest, device=q.device)
        back = place[:, None] - place
        hidden = (back < 0) | (back >= (how.window or group.longest))
        p = torch.softmax(scores.masked_fill(hidden.repeat_interleave(shared, 0), -torch.inf), -1)
        _put(out, torch.bmm(functional.dropout(p, dropout), v), group, shared)
    return out
