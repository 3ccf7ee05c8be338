"""A LoRA adapter as the native step reads it, straight from a PEFT folder's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor

from smolorad.engine.native.step import Lora, NativeModel

_PREFIX = "base_model.model."


def plain_lora(native: NativeModel, config: LoraConfig, weights: Mapping[str, Tensor]) -> Lora | None:
    """The adapter, without a module of PEFT's; None where it is more than plain LoRA on projections, or does not fit.

    What is wrong with it then, if anything, PEFT finds out.
    """
    more = (
        config.use_dora,
        config.modules_to_save,
        config.bias != "none",
        config.lora_bias,
        config.rank_pattern,
        config.alpha_pattern,
        config.target_modules is None,
    )
    if any(more):
        return None
    targets = [name for name in native.module_names if check_target_module_exists(config, name)]
    names = {name: [f"{_PREFIX}{name}.lora_{half}.weight" for half in "AB"] for name in targets}
    if {one for pair in names.values() for one in pair} != set(weights):
        return None
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    products = {name: (weights[a], weights[b], scale) for name, (a, b) in names.items()}
    for name, (a, b, _) in products.items():
        out, cols = native.projections.get(name, (0, 0))
        if a.shape != (config.r, cols) or b.shape != (out, config.r):
            return None
    return native.lora_of(products)
