"""A model of the Llama family in numpy, in double precision, written down as plainly as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.native.model_shape import EMBEDDING, FINAL_NORM, HEAD, Shape

Array = NDArray[np.float64]
Loras = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32], float]]


def logits_of(shape: Shape, weights: Mapping[str, NDArray[Any]], tokens: Sequence[int], loras: Loras) -> Array:
    """The logits after each of the tokens: (tokens, vocabulary). `weights` are numbers; tied ones have both ends."""
    known = {name: array.astype(np.float64) for name, array in weights.items()}
    x = known[EMBEDDING][list(tokens)]
    cos, sin = _turns(shape, len(tokens))

    def linear(name: str, of: Array) -> Array:
        out = of @ known[f"{name}.weight"].T + known.get(f"{name}.bias", 0.0)
        if name in loras:
            a, b, scale = loras[name]
            out = out + scale * (of @ a.T.astype(np.float64)) @ b.T.astype(np.float64)
        return out

    def norm(name: str, of: Array) -> Array:
        return of / np.sqrt((of * of).mean(-1, keepdims=True) + shape.eps) * known[name]

    for number in range(shape.layers):
        layer = shape.layer(number)
        q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj = shape.projections(number)
        normed = norm(f"{layer}input_layernorm.weight", x)
        heads = [linear(name, normed).reshape(len(x), -1, shape.head_dim) for name in (q_proj, k_proj, v_proj)]
        for at, name in enumerate(("q_norm", "k_norm")):
            if (full := f"{layer}self_attn.{name}.weight") in known:
                heads[at] = norm(full, heads[at])
        q, k, v = _turned(heads[0], cos, sin), _turned(heads[1], cos, sin), heads[2]
        x = x + linear(o_proj, _attended(shape, q, k, v).reshape(len(x), -1))
        normed = norm(f"{layer}post_attention_layernorm.weight", x)
        gate = linear(gate_proj, normed)
        x = x + linear(down_proj, gate / (1 + np.exp(-gate)) * linear(up_proj, normed))
    logits: Array = norm(FINAL_NORM, x) @ known[HEAD].T
    return logits


def _turns(shape: Shape, tokens: int) -> tuple[Array, Array]:
    angles = np.arange(tokens)[:, None] * np.array(shape.inverse_frequencies, dtype=np.float32).astype(np.float64)
    return np.cos(angles)[:, None] * shape.rope_scale, np.sin(angles)[:, None] * shape.rope_scale


def _turned(x: Array, cos: Array, sin: Array) -> Array:
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def _attended(shape: Shape, q: Array, k: Array, v: Array) -> Array:
    shared = shape.heads // shape.kv_heads
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
    scores = np.einsum("thd,shd->hts", q, k) * shape.attention_scale
    scores += np.triu(np.full((len(q), len(q)), -np.inf), 1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    out: Array = np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), v)
    return out
