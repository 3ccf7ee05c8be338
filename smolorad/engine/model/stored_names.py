"""Under which names weight files have a model's parameters, where these are other names or several tensors are one.

transformers renames and joins tensors while it reads them. What the native step reads without transformers is found here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from smolorad.engine.native.description import Decoder, Experts

Shapes = Mapping[str, tuple[int, ...]]

# What transformers calls a part, and what files call it.
_RENAMED = (
    ("lm_head.weight", "embed_out.weight"),  # GPT-NeoX
    (".mlp.gate.", ".block_sparse_moe.gate."),  # Mixtral
)
# Where the experts of a layer are, and what each one's gate, up and down are called.
_EXPERTS = (
    (".mlp.experts.", ("gate_proj", "up_proj", "down_proj")),
    (".block_sparse_moe.experts.", ("w1", "w3", "w2")),
)


def sources_of(decoder: Decoder, parameters: Shapes, stored: Shapes, prefix: str) -> dict[str, tuple[str, ...]] | None:
    """The stored tensors that give each parameter, one after the other in memory; None where some cannot be found.

    Files that were saved from the model without its head lack the `prefix` of all names.
    """
    experts = {name: one for one in decoder.experts for name in (one.gate_up, one.down)}
    found = {}
    for name, shape in parameters.items():
        names = next((one for one in _candidates(name, experts.get(name), prefix) if _fits(one, shape, stored)), None)
        if names is None:
            return None
        found[name] = names
    return found


def _candidates(name: str, experts: Experts | None, prefix: str) -> Iterator[tuple[str, ...]]:
    yield (name,)
    yield (name.removeprefix(f"{prefix}."),)
    for ours, theirs in _RENAMED:
        yield (name.replace(ours, theirs),)
    if experts is not None:
        for place, (gate, up, down) in _EXPERTS:
            wanted = (gate, up) if name == experts.gate_up else (down,)
            begin = name.rpartition(".mlp.experts.")[0] + place
            yield tuple(f"{begin}{at}.{kind}.weight" for at in range(experts.count) for kind in wanted)


def _fits(names: Sequence[str], shape: tuple[int, ...], stored: Shapes) -> bool:
    """Whether these tensors, joined along their rows, have the numbers of a parameter of this shape."""
    shapes = [stored.get(name, ()) for name in names]
    if len(names) == 1 and shapes[0] == shape:
        return True
    if len(shape) != 3:
        return False
    rows = shape[0] * shape[1] // len(names)
    return all(one == (rows, shape[2]) for one in shapes)
