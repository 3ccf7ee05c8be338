"""Descriptions of decoders, drawn by hypothesis: any sizes that go together, any parts."""

from __future__ import annotations

from hypothesis import strategies as st

from smolorad.engine.native.description import (
    Activation,
    Decoder,
    Experts,
    HeadLayout,
    Layer,
    Linear,
    Norm,
    NormKind,
    Rope,
)
from smolorad.engine.native.library import GROUP


@st.composite
def decoders(draw: st.DrawFn, *, packed: bool, sure_experts: bool) -> Decoder:
    """`packed`: its matrices can be. `sure_experts`: every token takes all experts, so that rounding chooses no other."""
    width = st.integers(1, 3).map(lambda n: GROUP * n) if packed else st.integers(1, 100)
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    head_dim = draw(st.sampled_from([32, 64, 96])) if packed else draw(st.integers(1, 40)) * 2
    hidden, heads = draw(width), kv_heads * group
    grouped = draw(st.booleans())
    joint = not grouped and draw(st.booleans())
    ropes = tuple(draw(_rope(head_dim)) for _ in range(draw(st.integers(0, 2))))
    parallel = draw(st.booleans())
    active = draw(st.integers(1, 3))
    routing = (active if sure_experts else active + draw(st.integers(0, 3)), active, draw(st.booleans()))
    build = _Layers(hidden, heads, kv_heads, head_dim, grouped, joint, parallel, len(ropes), routing)
    vocabulary, tied = draw(st.integers(1, 70)), draw(st.booleans())
    cap = st.sampled_from([0.0, 0.0, 2.0])
    scale = st.sampled_from([1.0, 1.0, 0.7, 3.0])
    step = (group + 2) * head_dim
    separate = HeadLayout(
        kv_heads * step, group * head_dim, heads * head_dim, head_dim, (heads + kv_heads) * head_dim, head_dim
    )
    return Decoder(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        embedding="embed.weight",
        head="embed.weight" if tied else "head.weight",
        heads_layout=HeadLayout(kv_heads * step, step, group * head_dim, step, (group + 1) * head_dim, step)
        if grouped
        else separate,
        layers=tuple(draw(build.layer(number, width)) for number in range(draw(st.integers(1, 2)))),
        ropes=ropes,
        modules=(),
        final_norm=draw(_norm("final", hidden)),
        attention_scale=draw(st.sampled_from([head_dim**-0.5, 0.3])),
        activation=draw(st.sampled_from(list(Activation))),
        parallel=parallel,
        joint_norms=joint,
        embedding_scale=draw(scale),
        embedding_norm=draw(_norm("embedded", hidden)),
        positions="positions.weight" if draw(st.booleans()) else None,
        first_position=draw(st.integers(0, 2)),
        residual_scale=draw(scale),
        score_cap=draw(cap),
        logit_scale=draw(scale),
        logit_cap=draw(cap),
        head_bias="head.bias" if draw(st.booleans()) else None,
        slopes=tuple(0.5 / (i + 1) for i in range(heads)) if draw(st.booleans()) else (),
        slope_scale=draw(scale),
    )


@st.composite
def _rope(draw: st.DrawFn, head_dim: int) -> Rope:
    pairs = draw(st.integers(1, head_dim // 2))
    frequencies = tuple(float(1e4 ** (-i / pairs)) for i in range(pairs))
    return Rope(frequencies, draw(st.sampled_from([1.0, 1.2])), draw(st.booleans()))


@st.composite
def _norm(draw: st.DrawFn, name: str, width: int, heads: int = 1, *, always: bool = False) -> Norm | None:
    if not always and not draw(st.booleans()):
        return None
    own = heads if heads > 1 and draw(st.booleans()) else 1
    weights = tuple(f"{name}.{i}.weight" for i in range(own)) if draw(st.integers(0, 4)) else ()
    # A small epsilon would enlarge the rounding of numbers that cancel.
    kind, eps = draw(st.sampled_from(list(NormKind))), draw(st.sampled_from([1e-2, 0.3]))
    has_bias = weights and kind is NormKind.LAYER and draw(st.booleans())
    biases = tuple(f"{name}.{i}.bias" for i in range(own)) if has_bias else ()
    return Norm(kind, eps, width, weights, biases, draw(st.sampled_from([0.0, 1.0])) if weights else 0.0)


class _Layers:
    def __init__(
        self,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        grouped: bool,
        joint: bool,
        parallel: bool,
        ropes: int,
        routing: tuple[int, int, bool],  # experts of a layer, those that a token takes, and whether their shares are normalized
    ) -> None:
        self.hidden, self.heads, self.kv_heads, self.head_dim = hidden, heads, kv_heads, head_dim
        self.grouped, self.joint, self.parallel, self.ropes, self.routing = grouped, joint, parallel, ropes, routing

    def layer(self, number: int, inner_width: st.SearchStrategy[int]) -> st.SearchStrategy[Layer]:
        return self._layer(number, inner_width)

    @st.composite
    def _layer(draw: st.DrawFn, self: _Layers, number: int, inner_width: st.SearchStrategy[int]) -> Layer:
        name, hidden, queries, keys = f"{number}", self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        bias, transposed, inner = draw(st.booleans()), draw(st.booleans()), draw(inner_width)

        def linear(module: str, rows: int, columns: int, first: int = 0) -> Linear:
            return Linear(f"{name}.{module}", rows, columns, bias, first, transposed)

        def between(module: str) -> Norm | None:
            return draw(_norm(f"{name}.{module}", hidden))

        fused = self.grouped or draw(st.booleans())
        if self.grouped:
            query, key, value = linear("qkv", queries + 2 * keys, hidden), None, None
        elif fused:
            query, key = linear("qkv", queries, hidden), linear("qkv", keys, hidden, queries)
            value = linear("qkv", keys, hidden, queries + keys)
        else:
            query, key, value = linear("q", queries, hidden), linear("k", keys, hidden), linear("v", keys, hidden)
        gate, up, down = None, linear("up", inner, hidden), linear("down", hidden, inner)
        if draw(st.booleans()):
            gate = linear("gate", inner, hidden)
            if draw(st.booleans()):
                gate, up = linear("gate_up", inner, hidden), linear("gate_up", inner, hidden, inner)
        experts = None
        if draw(st.integers(0, 3)) == 0:
            names = (f"{name}.router.weight", f"{name}.experts.gate_up", f"{name}.experts.down")
            count, active, normalized = self.routing
            experts = Experts(*names, count, active, inner, normalized)
        q_width, k_width = (queries, keys) if self.joint else (self.head_dim, self.head_dim)
        q_heads, k_heads = (1, 1) if self.joint else (self.heads, self.kv_heads)
        return Layer(
            attention_norm=between("attention"),
            attention_out_norm=None if self.parallel else between("attention_out"),
            mlp_norm=between("mlp"),
            mlp_out_norm=None if self.parallel else between("mlp_out"),
            query_norm=draw(_norm(f"{name}.q_norm", q_width, q_heads)),
            key_norm=draw(_norm(f"{name}.k_norm", k_width, k_heads)),
            query=query,
            key=key,
            value=value,
            output=linear("o", hidden, queries),
            gate=gate if experts is None else None,
            up=up if experts is None else None,
            down=down if experts is None else None,
            experts=experts,
            rope=draw(st.integers(-1, self.ropes - 1)),
            window=draw(st.sampled_from([0, 0, 1, 5, 17])),
        )
