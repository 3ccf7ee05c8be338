"""A described decoder in numpy, in double precision, written down as plainly as it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.native.description import Activation, Decoder, Experts, Layer, Linear, Norm, NormKind, Rope

Array = NDArray[np.float64]
Loras = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32], float]]


def logits_of(decoder: Decoder, weights: Mapping[str, NDArray[Any]], tokens: Sequence[int], loras: Loras) -> Array:
    """The logits after each of the tokens: (tokens, vocabulary). `weights` are numbers, by name."""
    known = {name: array.astype(np.float64) for name, array in weights.items()}
    return _Reference(decoder, known, loras, len(tokens)).logits(tokens)


ACTIVATIONS = {
    Activation.SILU: lambda x: x / (1 + np.exp(-x)),
    Activation.GELU: lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    Activation.GELU_TANH: lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    Activation.RELU: lambda x: np.maximum(x, 0),
    Activation.RELU2: lambda x: np.maximum(x, 0) ** 2,
    Activation.QUICK_GELU: lambda x: x / (1 + np.exp(-1.702 * x)),
}


@dataclass(frozen=True)
class _Reference:
    decoder: Decoder
    known: Mapping[str, Array]
    loras: Loras
    tokens: int

    def logits(self, tokens: Sequence[int]) -> Array:
        decoder, known = self.decoder, self.known
        x = known[decoder.embedding][list(tokens)] * decoder.embedding_scale
        if decoder.positions is not None:
            x = x + known[decoder.positions][decoder.first_position :][: len(tokens)]
        x = self._normed(decoder.embedding_norm, x)
        for layer in decoder.layers:
            normed = self._normed(layer.attention_norm, x)
            attended = self._normed(layer.attention_out_norm, self._attention(layer, normed))
            if decoder.parallel:
                x = x + decoder.residual_scale * (attended + self._mlp(layer, self._normed(layer.mlp_norm, x)))
                continue
            x = x + decoder.residual_scale * attended
            inner = self._mlp(layer, self._normed(layer.mlp_norm, x))
            x = x + decoder.residual_scale * self._normed(layer.mlp_out_norm, inner)
        logits = self._normed(decoder.final_norm, x) @ known[decoder.head].T
        if decoder.head_bias is not None:
            logits = logits + known[decoder.head_bias]
        return _capped(logits * decoder.logit_scale, decoder.logit_cap)

    def _normed(self, norm: Norm | None, x: Array) -> Array:
        """Over the last dimension; the one before it may be heads, which may have weights of their own."""
        if norm is None:
            return x
        if norm.kind is NormKind.LAYER:
            x = x - x.mean(-1, keepdims=True)
        normed = x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps)
        if norm.weights:
            normed = normed * self._joined(norm.weights, norm.width, norm.offset)
        if norm.biases:
            normed = normed + self._joined(norm.biases, norm.width, 0.0)
        return normed

    def _joined(self, names: Sequence[str], width: int, offset: float) -> Array:
        joined: Array = np.concatenate([self.known[name].reshape(-1) for name in names]).reshape(-1, width) + offset
        return joined if len(joined) > 1 else joined[0]

    def _linear(self, linear: Linear, x: Array) -> Array:
        weight = self.known[linear.weight]
        rows = slice(linear.first, linear.first + linear.rows)
        out = x @ (weight.T if linear.transposed else weight)[rows].T
        if linear.bias_name is not None:
            out = out + self.known[linear.bias_name][rows]
        if linear.module in self.loras:
            a, b, scale = self.loras[linear.module]
            out = out + scale * (x @ a.T.astype(np.float64)) @ b[rows].T.astype(np.float64)
        return out

    def _attention(self, layer: Layer, x: Array) -> Array:
        decoder, width = self.decoder, self.decoder.head_dim
        parts = [self._linear(linear, x) for linear in (layer.query, layer.key, layer.value) if linear is not None]
        q, k, v = self._heads(np.concatenate(parts, axis=-1))
        if decoder.joint_norms:
            q = self._normed(layer.query_norm, q.reshape(len(x), -1)).reshape(len(x), -1, width)
            k = self._normed(layer.key_norm, k.reshape(len(x), -1)).reshape(len(x), -1, width)
        else:
            q, k = self._normed(layer.query_norm, q), self._normed(layer.key_norm, k)
        if layer.rope >= 0:
            q, k = _rotated(decoder.ropes[layer.rope], q), _rotated(decoder.ropes[layer.rope], k)
        shared = decoder.heads // decoder.kv_heads
        k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
        scores = _capped(np.einsum("thd,shd->hts", q, k) * decoder.attention_scale, decoder.score_cap)
        at = np.arange(len(x))
        if decoder.slopes:
            scores = scores + np.array(decoder.slopes)[:, None, None] * decoder.slope_scale * at
        hidden = (at > at[:, None]) | ((at <= at[:, None] - layer.window) & (layer.window > 0))
        scores = np.where(hidden, -np.inf, scores)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        out = np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), v)
        return self._linear(layer.output, out.reshape(len(x), -1))

    def _heads(self, row: Array) -> tuple[Array, Array, Array]:
        decoder, layout, width = self.decoder, self.decoder.heads_layout, self.decoder.head_dim
        shared = decoder.heads // decoder.kv_heads
        firsts = [kv * layout.group_step + i * width for kv in range(decoder.kv_heads) for i in range(shared)]
        keys = [layout.key + kv * layout.key_step for kv in range(decoder.kv_heads)]
        values = [layout.value + kv * layout.value_step for kv in range(decoder.kv_heads)]
        q, k, v = (np.stack([row[:, at : at + width] for at in some], axis=1) for some in (firsts, keys, values))
        return q, k, v

    def _mlp(self, layer: Layer, x: Array) -> Array:
        act = ACTIVATIONS[self.decoder.activation]
        if layer.experts is not None:
            return self._experts(layer.experts, x)
        assert layer.up is not None
        assert layer.down is not None
        up = self._linear(layer.up, x)
        inner = act(up) if layer.gate is None else act(self._linear(layer.gate, x)) * up
        return self._linear(layer.down, inner)

    def _experts(self, experts: Experts, x: Array) -> Array:
        act = ACTIVATIONS[self.decoder.activation]
        logits = x @ self.known[experts.router].T
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares = shares / shares.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        for row, share in enumerate(shares):
            chosen = np.argsort(-share, kind="stable")[: experts.active]
            total = share[chosen].sum() if experts.normalized else 1.0
            for at in chosen:
                gate, up = np.split(self.known[experts.gate_up][at] @ x[row], 2)
                out[row] += share[at] / total * (self.known[experts.down][at] @ (act(gate) * up))
        return out


def _capped(x: Array, cap: float) -> Array:
    return cap * np.tanh(x / cap) if cap else x


def _rotated(rope: Rope, x: Array) -> Array:
    """x (tokens, heads, width)."""
    frequencies = np.array(rope.inverse_frequencies, dtype=np.float32).astype(np.float64)
    angles = np.arange(len(x))[:, None, None] * frequencies
    cos, sin, pairs = np.cos(angles) * rope.scale, np.sin(angles) * rope.scale, len(frequencies)
    low = slice(0, 2 * pairs, 2) if rope.interleaved else slice(0, pairs)
    high = slice(1, 2 * pairs, 2) if rope.interleaved else slice(pairs, 2 * pairs)
    out = x.copy()
    out[..., low] = x[..., low] * cos - x[..., high] * sin
    out[..., high] = x[..., high] * cos + x[..., low] * sin
    return out
