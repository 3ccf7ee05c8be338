"""LoRA adapters as the native step reads them, also straight from a PEFT folder's weights."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolora.common.adapter_config import ABOUT, HARMLESS
from smolorad.engine.native.description import PROJECTIONS, Decoder
from smolorad.engine.native.library import aligned_copy
from smolorad.engine.native.structs import LoraStruct
from smolorad.engine.runtime.dtypes import to_fp32

_PREFIX = "base_model.model."

# Keys of a plain LoRA's config: with any value, or with one that changes nothing. PEFT handles all others.
_ANYTHING = ABOUT | frozenset(
    {
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "lora_dropout",
        "r",
        "lora_alpha",
        "use_rslora",
        "target_modules",
        "fan_in_fan_out",
    }
)
_NOTHING: Mapping[str, Sequence[Any]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian"),
    **HARMLESS,
}

Products = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32], float]]


@dataclass(frozen=True)
class Lora:
    """An adapter as the step reads it."""

    table: Any  # LoraStruct for each projection of each layer
    decoder: Decoder  # that it is for
    arrays: Sequence[NDArray[np.float32]]  # what its pointers point at

    @classmethod
    def of(cls, decoder: Decoder, products: Products) -> Lora:
        """The adapter that adds scale * B (A x) to the modules named: A (rank, in), B (out, rank), scale.

        Raises ValueError where they do not fit. A module of several fused layers has one A for all of them.
        """
        sizes = decoder.module_sizes
        for name, (a, b, _) in products.items():
            out, columns = sizes.get(name, (0, 0))
            if a.ndim != 2 or a.shape[1] != columns or b.shape != (out, len(a)):
                raise ValueError(f"an adapter of {a.shape} and {b.shape} does not fit {name}, which is {(out, columns)}")
        table = (LoraStruct * (len(decoder.layers) * len(PROJECTIONS)))()
        arrays: list[NDArray[np.float32]] = []
        linears = (linear for layer in decoder.layers for linear in layer.projections)
        for at, linear in enumerate(linears):
            if linear is not None and linear.module in products:
                a, b, scale = products[linear.module]
                pair = (aligned_copy(a), aligned_copy(b[linear.span].T))
                arrays += pair
                table[at] = LoraStruct(pair[0].ctypes.data, pair[1].ctypes.data, a.shape[0], scale)
        return cls(table, decoder, arrays)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that the step reads of it, in hexadecimal."""
        digest = hashlib.sha256(repr([(one.rank, one.scale) for one in self.table]).encode())
        for array in self.arrays:
            digest.update(repr(array.shape).encode() + array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class PlainLora:
    """The settings of an adapter that consists of one pair of matrices per module."""

    rank: int
    scale: float

    @classmethod
    def of(cls, rank: int, alpha: float, *, rank_stabilised: bool) -> PlainLora:
        """From PEFT's r, lora_alpha and use_rslora."""
        return cls(rank, alpha / (math.sqrt(rank) if rank_stabilised else rank))

    def on(self, decoder: Decoder, targets: Sequence[str], weights: Mapping[str, NDArray[Any]]) -> Lora | None:
        """The adapter of these weights on the modules of these names; None where they do not fit together.

        PEFT then reports what is wrong, if anything.
        """
        names = {name: [f"{_PREFIX}{name}.lora_{half}.weight" for half in "AB"] for name in targets}
        if {one for pair in names.values() for one in pair} != set(weights):
            return None
        products = {name: (to_fp32(weights[a]), to_fp32(weights[b]), self.scale) for name, (a, b) in names.items()}
        if any(len(a) != self.rank for a, _, _ in products.values()):
            return None
        try:
            return Lora.of(decoder, products)
        except ValueError:
            return None


def read_plain_lora(decoder: Decoder, config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> Lora | None:
    """The adapter of a PEFT folder, its config as it was written; None where PEFT must read it."""
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    more = [key for key, value in config.items() if value and key not in _ANYTHING and value not in _NOTHING.get(key, ())]
    if more or not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and isinstance(targets, list)):
        return None
    ends = tuple(f".{target}" for target in targets)
    named = [name for name in decoder.modules if name in targets or name.endswith(ends)]
    return PlainLora.of(rank, alpha, rank_stabilised=bool(config.get("use_rslora"))).on(decoder, named, weights)
