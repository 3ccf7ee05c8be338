"""Whether a decoder's description and its weights fit together: the equations between their sizes.

The native step trusts the sizes: a smaller weight would be read beyond its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from smolorad.engine.native.description import Decoder, Experts, Layer, Linear, Norm, NormKind, Rope

MAX_NUMBERS = 2**28  # in a row of anything; C counts some of them together in 31 bits
MAX_ROPES = 4
MAX_WINDOW = 2**30  # more than any sequence has; C counts positions in 31 bits
_LARGEST = float(np.finfo(np.float32).max)  # C has the constants in float32
_Parameters = Mapping[str, Sequence[int]]


def misfit(decoder: Decoder, parameters: _Parameters) -> str:
    """Why the step cannot compute with these sizes, or with parameters of these shapes by name; empty if it can."""
    return next(_misfits(decoder, parameters), "")


def shapes_of(decoder: Decoder, *, positions: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a decoder reads, with an embedding of each token of its vocabulary."""
    rows = {decoder.embedding: (decoder.vocabulary,), decoder.positions or "": (positions,)}
    return dict(_needed(decoder, rows))


def _misfits(decoder: Decoder, parameters: _Parameters) -> Iterator[str]:
    yield from _sizes(decoder)
    yield from _heads(decoder)
    yield from _constants(decoder)
    for layer in decoder.layers:
        yield from _layer(decoder, layer)
    yield from _tensors(decoder, parameters)


def _sizes(decoder: Decoder) -> Iterator[str]:
    names = ("hidden", "heads", "kv_heads", "head_dim", "vocabulary")
    yield from (f"{name} is {getattr(decoder, name)}" for name in names if getattr(decoder, name) < 1)
    if not decoder.layers:
        yield "it has no layers"
    if len({(experts.count, experts.active, experts.normalized) for experts in decoder.experts}) > 1:
        yield "its layers do not choose as many of as many experts"
    if decoder.first_position < 0 or any(linear.first < 0 for linear in decoder.linears):
        yield "it reads what lies before a tensor"
    yield from (f"{linear.module} gives {linear.rows} numbers" for linear in decoder.linears if linear.rows < 1)
    if max(decoder.hidden, decoder.vocabulary, decoder.heads_layout.width, 2 * decoder.inner) > MAX_NUMBERS:
        yield "its layers are wider than the native decoder can count"


def _heads(decoder: Decoder) -> Iterator[str]:
    """Heads must share keys evenly, and lie inside of the row that the projections write."""
    heads, kv_heads, width, layout = decoder.heads, decoder.kv_heads, decoder.head_dim, decoder.heads_layout
    if heads % kv_heads:
        yield f"{heads} heads cannot share {kv_heads} heads of keys"
    ends = (
        (kv_heads - 1) * layout.group_step + heads // kv_heads * width,
        layout.key + (kv_heads - 1) * layout.key_step + width,
        layout.value + (kv_heads - 1) * layout.value_step + width,
    )
    steps = (layout.group_step, layout.key, layout.key_step, layout.value, layout.value_step)
    if max(ends) > layout.width or min(steps) < 0:
        yield f"heads of {width} numbers do not lie in rows of {layout.width}"
    if len(decoder.ropes) > MAX_ROPES or (decoder.long_ropes and len(decoder.long_ropes) != len(decoder.ropes)):
        yield f"it has {len(decoder.ropes)} and {len(decoder.long_ropes)} kinds of rotation"
    for rope in (*decoder.ropes, *decoder.long_ropes):
        if not 0 < 2 * len(rope.inverse_frequencies) <= width:
            yield f"{len(rope.inverse_frequencies)} frequencies turn heads of {width} numbers"
    for short, long in zip(decoder.ropes, decoder.long_ropes, strict=False):
        if len(short.inverse_frequencies) != len(long.inverse_frequencies):
            yield "it rotates other parts of a head in long texts"
    if decoder.slopes and len(decoder.slopes) != heads:
        yield f"{len(decoder.slopes)} slopes are not for {heads} heads"


def _constants(decoder: Decoder) -> Iterator[str]:
    ropes: tuple[Rope, ...] = (*decoder.ropes, *decoder.long_ropes)
    numbers = [number for rope in ropes for number in (rope.scale, *rope.inverse_frequencies)]
    numbers += [number for norm in decoder.norms for number in (norm.eps, norm.offset)]
    numbers += [decoder.attention_scale, decoder.embedding_scale, decoder.residual_scale, decoder.logit_scale]
    numbers += (*decoder.slopes, decoder.slope_scale)
    caps = [decoder.score_cap, decoder.logit_cap]
    if any(norm.biases and (norm.kind is NormKind.RMS or not norm.weights) for norm in decoder.norms):
        yield "it has a bias in a norm that has none"
    if not all(abs(number) <= _LARGEST for number in (*numbers, *caps)) or min(caps) < 0:
        yield "its constants are not finite"


def _layer(decoder: Decoder, layer: Layer) -> Iterator[str]:
    hidden, heads = decoder.hidden, decoder.heads * decoder.head_dim
    rows = sum(linear.rows for linear in (layer.query, layer.key, layer.value) if linear is not None)
    if rows != decoder.heads_layout.width or (layer.key is None) != (layer.value is None):
        yield f"{layer.query.module} and its like give {rows} numbers instead of {decoder.heads_layout.width}"
    inner = layer.up.rows if layer.up is not None else 0
    wanted: list[tuple[Linear | None, int | None, int]] = [
        (layer.query, None, hidden),
        (layer.key, None, hidden),
        (layer.value, None, hidden),
        (layer.output, hidden, heads),
        (layer.gate, inner, hidden),
        (layer.up, inner, hidden),
        (layer.down, hidden, inner),
    ]
    for linear, linear_rows, columns in wanted:
        if linear is not None and (linear.columns != columns or linear.rows != (linear_rows or linear.rows)):
            yield f"{linear.module} is {(linear.rows, linear.columns)}, not {(linear_rows, columns)}"
    if layer.experts is None and (layer.up is None or layer.down is None):
        yield f"there is no MLP beside {layer.output.module}"
    if layer.experts is not None and not 0 < layer.experts.active <= layer.experts.count:
        yield f"{layer.experts.active} of {layer.experts.count} experts cannot be chosen"
    if decoder.joint_norms and not decoder.heads_side_by_side:
        yield "it has a norm over heads that do not lie side by side"
    if decoder.parallel and (layer.attention_out_norm or layer.mlp_out_norm):
        yield "it has norms of what attention and MLP give side by side"
    if not -1 <= layer.rope < len(decoder.ropes) or not 0 <= layer.window <= MAX_WINDOW:
        yield f"there is no rotation {layer.rope}, or no window of {layer.window}"
    for norm in (layer.attention_norm, layer.attention_out_norm, layer.mlp_norm, layer.mlp_out_norm):
        if norm is not None and norm.width != hidden:
            yield f"a norm over {norm.width} numbers is not one of the residual stream"
    for norm, count in ((layer.query_norm, decoder.heads), (layer.key_norm, decoder.kv_heads)):
        if norm is not None and norm.width != decoder.head_dim * (count if decoder.joint_norms else 1):
            yield f"a norm over {norm.width} numbers is not one of heads"


def _tensors(decoder: Decoder, parameters: _Parameters) -> Iterator[str]:
    """Every tensor must have the size that is read of it, and none may be left over."""
    read: set[str] = set()
    for name, shape in _needed(decoder, parameters):
        read.add(name)
        if (found := tuple(parameters.get(name, ()))) != shape:
            yield f"{name} is {found}, not {shape}"
    if unknown := sorted(parameters.keys() - read):
        yield f"nothing is computed with {unknown[0]}"


def _needed(decoder: Decoder, parameters: _Parameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor that the step reads. Some have any number of rows, but at least one."""
    rows = {
        name: max(1, *parameters.get(name, ())[:1], 1) for name in (decoder.embedding, decoder.positions) if name is not None
    }
    yield decoder.embedding, (rows[decoder.embedding], decoder.hidden)
    yield decoder.head, (decoder.vocabulary, decoder.hidden)
    if decoder.positions is not None:
        yield decoder.positions, (max(rows[decoder.positions], decoder.first_position + 1), decoder.hidden)
    if decoder.head_bias is not None:
        yield decoder.head_bias, (decoder.vocabulary,)
    sizes = decoder.module_sizes
    for linear in decoder.linears:
        shape = (sizes[linear.module][0], linear.columns)
        yield linear.weight, shape[::-1] if linear.transposed else shape
        if linear.bias_name is not None:
            yield linear.bias_name, shape[:1]
    for experts in decoder.experts:
        yield from _needed_by_experts(decoder, experts)
    heads = {norm: count for layer in decoder.layers for norm, count in _head_norms(decoder, layer)}
    for norm in decoder.norms:
        yield from _needed_by_norm(norm, heads.get(norm, 1), parameters)


def _head_norms(decoder: Decoder, layer: Layer) -> Iterator[tuple[Norm, int]]:
    """The norms of queries and keys, with the number of heads that may have weights of their own."""
    for norm, count in ((layer.query_norm, decoder.heads), (layer.key_norm, decoder.kv_heads)):
        if norm is not None:
            yield norm, 1 if decoder.joint_norms else count


def _needed_by_norm(norm: Norm, heads: int, parameters: _Parameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    for names in (norm.weights, norm.biases):
        if len(names) == 1 and len(parameters.get(names[0], ())) == 2:  # each head has a row
            yield names[0], (heads, norm.width)
        else:
            if len(names) not in (0, 1, heads):
                yield names[0], ()  # of some heads only
            yield from ((name, (norm.width,)) for name in names)


def _needed_by_experts(decoder: Decoder, experts: Experts) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield experts.router, (experts.count, decoder.hidden)
    yield experts.gate_up, (experts.count, 2 * experts.inner, decoder.hidden)
    yield experts.down, (experts.count, decoder.hidden, experts.inner)
