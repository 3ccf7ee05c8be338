"""In which format each matrix of a model is packed.

Four bits for every matrix cost much quality, and most of it in few places. An error in the values stands in every token that
attends to them: eight bits for these few matrices halve the loss. Queries and attention's output are the least sensitive and
have four bits; the rest has five. A matrix that was made from four bits is packed as INT4 wherever it stands, as it loses next
to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from smolorad.domain import Precision
from smolorad.engine.native.description import PROJECTIONS, Layer
from smolorad.engine.native.library import Format

_INT4 = {"query": Format.INT4, "value": Format.INT8, "output": Format.INT4}
# By the names that most of transformers' attention modules give their layers.
_PARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}


def packed_format(precision: Precision, part: str) -> Format:
    """The format of a part of a decoder in a precision that is not exact: of `parts_of`, `expert` or `head`."""
    return Format.INT8 if precision is Precision.INT8 else _INT4.get(part, Format.INT5)


def parts_of(layer: Layer) -> Sequence[str]:
    """What each projection of a layer is, in the order of PROJECTIONS: `fused` for queries, keys and values in one."""
    return PROJECTIONS if layer.key is not None else ("fused", *PROJECTIONS[1:])


def part_of(name: str) -> str:
    """The part that a module of transformers' is, by its name; that name for others."""
    return _PARTS.get(name, name)
