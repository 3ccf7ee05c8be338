"""The description of a decoder: everything that the native step needs to know about a model besides its weights.

A decoder reads tokens, adds the output of attention and of an MLP to a residual stream in each layer, and ends in a product
that gives the logits. What differs between families is here as data: how their linear layers are fused, which norms they have
and where, how they rotate keys. `model/families.py` has the table of transformers' classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum


class NormKind(IntEnum):
    """As decode_norm.h numbers them."""

    RMS = 0  # divides by the root of the mean square
    LAYER = 1  # subtracts the mean first


class Activation(IntEnum):
    """As activations.h numbers them."""

    SILU = 0
    GELU = 1
    GELU_TANH = 2  # the approximation by tanh
    RELU = 3
    RELU2 = 4  # the square of ReLU
    QUICK_GELU = 5


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over `width` numbers. Its weights are tensors that follow one another, so that heads may have their own."""

    kind: NormKind
    eps: float
    width: int
    weights: tuple[str, ...]  # names of tensors; none: all ones
    biases: tuple[str, ...] = ()
    offset: float = 0.0  # is added to each weight

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors that it reads."""
        return self.weights + self.biases


@dataclass(frozen=True, slots=True)
class Linear:
    """Rows of the weight of a linear module: all of them, or those of one of several layers that are fused into it."""

    module: str  # its name
    rows: int
    columns: int
    bias: bool
    first: int = 0  # row of the module's weight
    transposed: bool = False  # the weight is (columns, rows), as in transformers' Conv1D

    @property
    def weight(self) -> str:
        """The name of the weight."""
        return f"{self.module}.weight"

    @property
    def span(self) -> slice:
        """Its rows of the module's."""
        return slice(self.first, self.first + self.rows)

    @property
    def bias_name(self) -> str | None:
        """The name of the bias; None where there is none."""
        return f"{self.module}.bias" if self.bias else None


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """Where the heads lie in the row of numbers that the projections of a layer's queries, keys and values write.

    All are counted in numbers. The queries that share a key lie side by side.
    """

    width: int
    group_step: int  # from the first query of a key head to that of the next
    key: int  # where the first key begins
    key_step: int
    value: int
    value_step: int


@dataclass(frozen=True, slots=True)
class Experts:
    """An MLP that consists of experts, of which each token takes a few; all are gated, without biases."""

    router: str  # the tensor (count, hidden)
    gate_up: str  # the tensor (count, 2 * inner, hidden)
    down: str  # the tensor (count, hidden, inner)
    count: int
    active: int  # experts that a token takes
    inner: int
    normalized: bool  # whether the weights of a token's experts are divided by their sum


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of the first 2 * len(inverse_frequencies) numbers of each head."""

    inverse_frequencies: tuple[float, ...]
    scale: float
    interleaved: bool  # rotates neighbours, else numbers half of the rotated part away


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. An absent part is None."""

    attention_norm: Norm | None
    attention_out_norm: Norm | None  # of what attention adds to the residual stream
    mlp_norm: Norm | None
    mlp_out_norm: Norm | None
    query_norm: Norm | None
    key_norm: Norm | None
    query: Linear  # or all three, fused, if there are no others
    key: Linear | None
    value: Linear | None
    output: Linear
    gate: Linear | None
    up: Linear | None
    down: Linear | None
    experts: Experts | None
    rope: int  # among the decoder's; -1: none
    window: int  # a token sees itself and window - 1 tokens before it; 0: all

    @property
    def projections(self) -> tuple[Linear | None, ...]:
        """Its linear layers, in the order of PROJECTIONS."""
        return self.query, self.key, self.value, self.output, self.gate, self.up, self.down

    @property
    def norms(self) -> tuple[Norm | None, ...]:
        """Its norms, in the order of NORMS."""
        mlp = (self.mlp_norm, self.mlp_out_norm)
        return self.attention_norm, self.attention_out_norm, *mlp, self.query_norm, self.key_norm


# The fields of C's Layer, in their order.
PROJECTIONS = ("query", "key", "value", "output", "gate", "up", "down")
NORMS = ("attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm", "query_norm", "key_norm")


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder. Its tensors and modules have transformers' names."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int  # rows of the output head
    embedding: str  # the tensor (tokens, hidden)
    head: str  # the tensor (vocabulary, hidden), which may be the embedding
    heads_layout: HeadLayout
    layers: tuple[Layer, ...]
    ropes: tuple[Rope, ...]
    modules: tuple[str, ...]  # the names of all modules, among which an adapter looks for its targets
    final_norm: Norm | None
    attention_scale: float
    activation: Activation = Activation.SILU
    parallel: bool = False  # the MLP reads what attention reads, not what it adds
    joint_norms: bool = False  # the norms of queries and keys are over all heads together
    embedding_scale: float = 1.0
    embedding_norm: Norm | None = None
    positions: str | None = None  # the tensor (positions, hidden) of learned position embeddings
    first_position: int = 0  # the row of the first token's position
    residual_scale: float = 1.0  # of what attention and MLP add
    score_cap: float = 0.0  # a score s becomes cap * tanh(s / cap); 0: it stays
    logit_scale: float = 1.0
    logit_cap: float = 0.0  # likewise
    head_bias: str | None = None
    slopes: tuple[float, ...] = ()  # ALiBi: of each head, what a key's score gains for each position
    slope_scale: float = 1.0  # of what the slopes give
    rounded_slopes: bool = False  # what they give is rounded to bf16 first
    long_ropes: tuple[Rope, ...] = ()  # what takes the place of `ropes` in sequences of more than `short_context` tokens
    short_context: int = 0

    @property
    def inner(self) -> int:
        """The most numbers between the two halves of an MLP."""
        return max(layer.experts.inner if layer.experts else layer.up.rows if layer.up else 0 for layer in self.layers)

    @property
    def norms(self) -> Iterator[Norm]:
        """All norms."""
        every = (self.embedding_norm, self.final_norm, *(norm for layer in self.layers for norm in layer.norms))
        return (norm for norm in every if norm is not None)

    @property
    def linears(self) -> Iterator[Linear]:
        """All linear layers but the head."""
        return (linear for layer in self.layers for linear in layer.projections if linear is not None)

    @property
    def module_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Rows and columns of each linear module, of which several layers may be fused into one."""
        sizes: dict[str, tuple[int, int]] = {}
        for linear in self.linears:
            rows, _ = sizes.get(linear.module, (0, 0))
            sizes[linear.module] = max(rows, linear.span.stop), linear.columns
        return sizes

    @property
    def heads_side_by_side(self) -> bool:
        """Whether all queries of a row lie side by side, and all keys."""
        layout, width = self.heads_layout, self.head_dim
        return (layout.group_step, layout.key_step) == (self.heads // self.kv_heads * width, width)

    @property
    def experts(self) -> Iterator[Experts]:
        """The experts of all layers that have some."""
        return (layer.experts for layer in self.layers if layer.experts is not None)
