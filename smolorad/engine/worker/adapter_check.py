"""Checks an adapter against a base that is not loaded: PEFT attaches it to the base's modules, without their weights."""

from __future__ import annotations

from pathlib import Path

from smolorad.engine.adapters.peft import fit, read_config, read_weights
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.model.meta_model import meta_model
from smolorad.engine.model.transformers_folder import read_model_config


def check_adapter(base: Path, name: str, adapter: Path, *, trust_remote_code: bool = False) -> int:
    """The number of the adapter's parameters, if it fits the model in `base`, called `name`.

    Raises what attaching it to the loaded model raises, and what reading the model's config raises.
    """
    config = read_config(adapter)
    folder = ModelFolder.open(base, name=name, trust_remote_code=trust_remote_code)
    model = meta_model(folder, read_model_config(base, folder.config, name, trust_remote_code))
    _, weights = fit(model.eval().requires_grad_(False), name, config, read_weights(adapter), adapter)
    return sum(tensor.numel() for tensor in weights.values())
