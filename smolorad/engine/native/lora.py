"""A LoRA adapter as the native step reads it, straight from a PEFT folder's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from smolora.common.adapter_config import ABOUT, HARMLESS
from smolorad.engine.native.decoder import Lora, NativeModel
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
    }
)
_NOTHING: Mapping[str, Sequence[Any]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian"),
    **HARMLESS,
}


@dataclass(frozen=True, slots=True)
class PlainLora:
    """The settings of an adapter that consists of one pair of matrices per module."""

    rank: int
    scale: float

    @classmethod
    def of(cls, rank: int, alpha: float, *, rank_stabilised: bool) -> PlainLora:
        """From PEFT's r, lora_alpha and use_rslora."""
        return cls(rank, alpha / (math.sqrt(rank) if rank_stabilised else rank))

    def on(self, native: NativeModel, targets: Sequence[str], weights: Mapping[str, NDArray[Any]]) -> Lora | None:
        """The adapter of these weights on the modules of these names; None where they do not fit together.

        PEFT then reports what is wrong, if anything.
        """
        names = {name: [f"{_PREFIX}{name}.lora_{half}.weight" for half in "AB"] for name in targets}
        if {one for pair in names.values() for one in pair} != set(weights):
            return None
        products = {name: (to_fp32(weights[a]), to_fp32(weights[b]), self.scale) for name, (a, b) in names.items()}
        for name, (a, b, _) in products.items():
            out, cols = native.projections.get(name, (0, 0))
            if a.shape != (self.rank, cols) or b.shape != (out, self.rank):
                return None
        return native.lora_of(products)


def read_plain_lora(native: NativeModel, config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> Lora | None:
    """The adapter of a PEFT folder, its config as it was written; None where PEFT must read it."""
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    more = [key for key, value in config.items() if value and key not in _ANYTHING and value not in _NOTHING.get(key, ())]
    if more or not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and isinstance(targets, list)):
        return None
    ends = tuple(f".{target}" for target in targets)
    named = [name for name in native.shape.modules if name in targets or name.endswith(ends)]
    return PlainLora.of(rank, alpha, rank_stabilised=bool(config.get("use_rslora"))).on(native, named, weights)
