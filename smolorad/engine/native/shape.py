"""What the native step must know of a model besides its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


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
