"""The sizes of a model that the native step needs besides its weights, and which of them fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"

_MOST = 2**28  # numbers in a row of anything; C counts some of them together in 31 bits


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of the Llama family. Its weights have transformers' names, `layers` times those of a layer."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int  # rows of the output head
    eps: float
    attention_scale: float
    rope_scale: float
    inverse_frequencies: tuple[float, ...]
    tied: bool  # whether the output head is the embedding
    modules: tuple[str, ...]  # the names of all modules, among which an adapter looks for its targets

    def layer(self, number: int) -> str:
        """What the names of a layer's modules begin with."""
        return f"model.layers.{number}."

    def projections(self, number: int) -> Iterator[str]:
        """The names of a layer's linear modules, in the order of PROJECTIONS."""
        for name in PROJECTIONS:
            yield f"{self.layer(number)}{'self_attn' if name in PROJECTIONS[:4] else 'mlp'}.{name}"

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every weight that the step requires, without the embedding's rows."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = {
            "q_proj": (queries, self.hidden),
            "k_proj": (keys, self.hidden),
            "v_proj": (keys, self.hidden),
            "o_proj": (self.hidden, queries),
            "gate_proj": (self.inner, self.hidden),
            "up_proj": (self.inner, self.hidden),
            "down_proj": (self.hidden, self.inner),
        }
        for number in range(self.layers):
            for kind, name in zip(PROJECTIONS, self.projections(number), strict=True):
                yield f"{name}.weight", sizes[kind]
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield f"{self.layer(number)}{norm}.weight", (self.hidden,)
        yield FINAL_NORM, (self.hidden,)
        yield EMBEDDING if self.tied else HEAD, (self.vocabulary, self.hidden)

    def optional_parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The same of weights that only some models have: biases of projections, and norms of queries and keys."""
        sizes = dict(self.parameters())
        for number in range(self.layers):
            for name in self.projections(number):
                yield f"{name}.bias", sizes[f"{name}.weight"][:1]
            for norm in ("q_norm", "k_norm"):
                yield f"{self.layer(number)}self_attn.{norm}.weight", (self.head_dim,)

    def misfit(self, parameters: Mapping[str, Sequence[int]]) -> str:
        """Why the step cannot compute with these sizes, or with parameters of these shapes by name; empty if it can.

        The step trusts the sizes: a smaller weight would be read beyond its end.
        """
        names = ("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocabulary")
        if small := [name for name in names if getattr(self, name) < 1]:
            return f"{small[0]} is {getattr(self, small[0])}"
        if self.heads % self.kv_heads:
            return f"{self.heads} heads cannot share {self.kv_heads} heads of keys"
        if self.head_dim % 2 or len(self.inverse_frequencies) != self.head_dim // 2:
            return f"{len(self.inverse_frequencies)} frequencies turn heads of {self.head_dim} numbers"
        if max(self.hidden, self.inner, self.vocabulary, (self.heads + 2 * self.kv_heads) * self.head_dim) > _MOST:
            return "its layers are wider than the step can count"
        if not all(map(math.isfinite, (self.eps, self.attention_scale, self.rope_scale, *self.inverse_frequencies))):
            return "its constants are not finite"
        needed, optional = dict(self.parameters()), dict(self.optional_parameters())
        for name, shape in (needed | optional).items():
            found = tuple(parameters.get(name, () if name in needed else shape))
            if found != shape:
                return f"{name} is {found}, not {shape}"
        if unknown := sorted(parameters.keys() - needed.keys() - optional.keys() - {EMBEDDING, HEAD}):
            return f"nothing is computed with {unknown[0]}"
        read = tuple(parameters.get(EMBEDDING, ()))
        return "" if read[1:] == (self.hidden,) and read[0] > 0 else f"{EMBEDDING} is {read}"
