"""Whether the sizes in a config are those of the weights: compared with the files' headers, before anything is allocated."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smolorad.errors import Damaged

Tensors = Sequence[tuple[str, Sequence[int]]]  # name and shape

# Counts of layers: configs make lists of that length before any module is built. Not sizes of layers, and not bounds.
_LAYERS = re.compile(r"(?!max)(.*_)?(layer|block)s?", re.IGNORECASE)
_FEW_LAYERS = 1024  # lists of this length cost nothing, whatever the weights have
# A model may have more parameters than its file, which stores tied ones, and fused ones, as one.
_PARTS, _FEW_PARTS = 8, 512
# Tables that are computed, such as masks and positions: 2 GiB of them is more than any model has without as many weights.
_COMMON_BUFFERS, _TABLES = 2**31, 16  # bytes, and bytes for each number of the weights
_MISSING, _COMMON_MISSING = 2, 2**24  # some parameters are computed, too
_NUMBER = re.compile(r"\d+")
# Only layers that predict further tokens have these tensors, in every family that numbers them with the other layers.
_FURTHER = re.compile(r"\.(eh_proj|enorm|hnorm)\.")


@dataclass(frozen=True, slots=True)
class Stored:
    """What the headers of a model's weight files say."""

    numbers: Mapping[str, int]  # by tensor
    widest: int  # the largest dimension of any
    total: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", sum(self.numbers.values()))

    @classmethod
    def of(cls, tensors: Tensors) -> Stored:
        """Of all files together."""
        widest = max((length for _, shape in tensors for length in shape), default=0)
        return cls({name: math.prod(shape) for name, shape in tensors}, widest)


def check_layers(config: Mapping[str, Any], stored: Stored, path: object) -> None:
    """Raises Damaged where a config in `path` counts more layers than the weights can have: each has a tensor at least."""
    most = max(_FEW_LAYERS, len(stored.numbers), stored.widest)
    for name, value in _whole_numbers(config):
        if _LAYERS.fullmatch(name) and value > most:
            raise Damaged(
                f"{path} has {_shown(value)} as {name}, and the weights have {len(stored.numbers):,} tensors; "
                "get the model again."
            )


def _whole_numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a config, with the name under which it stands."""
    match value:
        case bool():
            return
        case int() | float():
            yield name, value
        case Mapping():
            for key, inner in value.items():
                yield from _whole_numbers(inner, key)
        case list():
            for inner in value:
                yield from _whole_numbers(inner, name)


class Counted:
    """Counts what a model under construction has; raises Damaged as soon as it is more than its weights can fill."""

    def __init__(self, stored: Stored, path: object) -> None:
        self._stored = stored
        self._path = path
        self._parts = 0

    def __call__(self, module: Any, name: str, parameter: Any) -> None:
        """A parameter is registered with a module."""
        self._parts += parameter is not None
        if self._parts > _PARTS * len(self._stored.numbers) + _FEW_PARTS:
            raise Damaged(
                f"{self._path} describes a model of more than {self._parts - 1:,} tensors, and the weights have "
                f"{len(self._stored.numbers):,}; get the model again."
            )


def check_fit(model: Any, stored: Stored, path: object) -> None:
    """Whether a model without memory for its parameters is the one that the weights were saved from; raises Damaged.

    Only what must fail is refused here: transformers renames and joins some tensors while it reads them.
    """
    needed = 0
    for name, parameter in model.named_parameters():
        needed += parameter.numel()
        found = stored.numbers.get(name)
        if found is not None and found != parameter.numel():
            raise Damaged(
                f"The weights do not fit {path}: {name} has {found:,} numbers instead of {_shown(parameter.numel())}; "
                "get the model again."
            )
    if needed > _MISSING * stored.total + _COMMON_MISSING:
        raise Damaged(
            f"{path} describes a model of {_shown(needed)} parameters, and the weights have {stored.total:,}; "
            "get the model again."
        )
    computed = sum(buffer.nbytes for buffer in model.buffers())
    if computed > _COMMON_BUFFERS + _TABLES * stored.total:
        raise Damaged(f"{path} needs tables of {_shown(computed)} bytes beside the weights; get the model again.")


def left_out(unexpected: Sequence[str], config: Any, expected: Sequence[str]) -> str | None:
    """A tensor of a layer that the model does not have, though it has others just like it; None where there is none.

    Layers that predict further tokens are left out on purpose: the config counts them, or they join two tokens' states.
    """
    if any(value for name, value in config.to_dict().items() if "nextn" in name or "mtp" in name):
        return None
    like, there = {_NUMBER.sub("#", name) for name in expected}, {layer for name in expected for layer in _layers_of(name)}
    absent = {name: set(_layers_of(name)) - there for name in sorted(unexpected)}
    # A computed table in a layer that the model has does not count as another layer.
    like |= {_NUMBER.sub("#", name) for name, layers in absent.items() if not layers}
    further = {layer for name, layers in absent.items() if _FURTHER.search(name) for layer in layers}
    return next((name for name, layers in absent.items() if layers - further and _NUMBER.sub("#", name) in like), None)


def _layers_of(name: str) -> Iterator[str]:
    """The layers that a tensor is in, such as a block and an expert in it: its name up to each number."""
    return (name[: found.end()] for found in _NUMBER.finditer(name))


def _shown(number: float) -> str:
    if abs(number) < 10**15:
        return f"{number:,}"
    return f"{number:.3g}" if isinstance(number, float) else f"about 10^{int(math.log10(abs(number)))}"
