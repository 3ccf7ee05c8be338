"""LoRA adapters in memory, each on a view of the base: none knows of another, and generation switches nothing."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smolorad import publish
from smolorad.engine.base import Base
from smolorad.engine.decode import Native
from smolorad.engine.failure import first_line
from smolorad.engine.native.adapter import plain_lora
from smolorad.errors import Damaged, NotFinite, NotFound, UnsupportedModel, WrongBase

LIMIT = 16
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

# What an adapter's config may say. All else must be as PEFT has it by default: some fields change the base's own weights, some
# need hooks that only PEFT's wrapper has, one names a module to import.
_SHAPE = frozenset(
    {
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "bias",
        "use_rslora",
        "use_dora",
        "modules_to_save",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "fan_in_fan_out",
        "lora_bias",
        "task_type",
    }
)
_ABOUT = frozenset(
    {"peft_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode", "init_lora_weights"}
)
# Beginnings that leave the base as it is. The others (`pissa`, `olora`, `loftq` ...) move a part of it into the adapter.
PLAIN_BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class Adapter:
    """The base with an adapter on it."""

    model: Any  # a view of the base, of the base's own class; None where the native step needs none
    parameters: int
    native: Native | None = None  # the base's native step with the adapter in it, if that can be


class Adapters:
    """The adapters in memory, by key; the one that was not asked for the longest goes where there are too many."""

    def __init__(self, base: Base, limit: int = LIMIT) -> None:
        self._base = base
        self._limit = limit
        self._by_key: OrderedDict[str, Adapter] = OrderedDict()

    def attach(self, key: str, path: Path) -> Adapter:
        """The adapter of a published folder, read if it is not in memory.

        Raises NotFound, Damaged, UnsupportedModel (no plain LoRA, or no safetensors), WrongBase, NotFinite.
        """
        if key not in self._by_key:
            self._by_key[key] = read_adapter(self._base, path)
            if len(self._by_key) > self._limit:
                self._by_key.popitem(last=False)
        self._by_key.move_to_end(key)
        return self._by_key[key]

    def detach(self, key: str) -> None:
        """Forgets an adapter; nothing happens if it is not in memory. An answer in progress keeps it to its end."""
        self._by_key.pop(key, None)

    def keys(self) -> tuple[str, ...]:
        """The keys in memory, the one that would go first at the front."""
        return tuple(self._by_key)


def read_adapter(base: Base, folder: Path) -> Adapter:
    """The adapter of a PEFT folder: for the native step, or else on a view of the base. Raises as `Adapters.attach`."""
    config = read_config(folder)
    _check_promise(base, folder)
    weights = _weights(folder)
    if base.native is not None and (lora := plain_lora(base.native, config, weights)) is not None:
        return Adapter(None, _numbers(weights), Native(base.native, lora))
    view = base.view(own_biases=config.bias != "none" or config.lora_bias, speaks=True)
    wrapped, parameters = wrap(view, base.name, config, folder)
    return _attached(wrapped, parameters)


def adapter_of(base: Base, config: LoraConfig, tensors: Mapping[str, Tensor]) -> Adapter:
    """An adapter of tensors by PEFT's names for them in a file: for the native step, or else on a view of the base."""
    if base.native is not None and (lora := plain_lora(base.native, config, tensors)) is not None:
        return Adapter(None, _numbers(tensors), Native(base.native, lora))
    config = copy.deepcopy(config)
    config.inference_mode, config.init_lora_weights = True, False
    view = base.view(own_biases=config.bias != "none" or config.lora_bias, speaks=True)
    with torch.random.fork_rng(devices=[]):
        wrapped = PeftModel(view, config)
    set_peft_model_state_dict(wrapped, dict(tensors))
    return _attached(wrapped, _numbers(tensors))


def _attached(wrapped: PeftModel, parameters: int) -> Adapter:
    return Adapter(wrapped.get_base_model().eval().requires_grad_(False), parameters)


def wrap(model: Any, name: str, config: LoraConfig, folder: Path) -> tuple[PeftModel, int]:
    """Injects the adapter of a PEFT folder into a model called `name`; returns it, and the number of its parameters.

    Raises UnsupportedModel, Damaged, WrongBase, NotFinite.
    """
    weights = _weights(folder)
    # PEFT draws beginnings that are overwritten at once; a training in progress must not notice.
    with torch.random.fork_rng(devices=[]):
        try:
            wrapped = PeftModel(model, config)
        except ValueError as error:
            raise WrongBase(f"The adapter in {folder} does not fit {name}: {first_line(error)}") from error
    weights = _of_adapter(name, wrapped, weights, folder)
    set_peft_model_state_dict(wrapped, weights)
    return wrapped, _numbers(weights)


def _numbers(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())


def adapter_weights(base: Base, folder: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder, checked against the base as `wrap` checks them; raises the same."""
    config = read_config(folder)
    _check_promise(base, folder)
    with torch.random.fork_rng(devices=[]):
        wrapped = PeftModel(base.view(own_biases=config.bias != "none" or config.lora_bias), config)
    return _of_adapter(base.name, wrapped, _weights(folder), folder)


def read_config(folder: Path) -> LoraConfig:
    """The shape of a PEFT folder's adapter; raises NotFound, Damaged, UnsupportedModel."""
    path = folder / CONFIG
    if not path.is_file():
        raise NotFound(f"{folder} is not an adapter, for it has no {CONFIG}; name the folder that PEFT wrote.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"{path} is not JSON ({error}); get the adapter again.") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        raise UnsupportedModel(f"The adapter in {folder} is no LoRA adapter; train one, or choose one of type LORA.")
    if raw.get("init_lora_weights", True) not in PLAIN_BEGINNINGS:
        raise UnsupportedModel(
            f"The adapter in {folder} was begun with {raw['init_lora_weights']!r}, which changes the base's weights; save it "
            "with `path_initial_model_for_weight_conversion`, which makes a plain LoRA of it."
        )
    default = LoraConfig().to_dict()
    strange = sorted(key for key, value in raw.items() if key not in _SHAPE | _ABOUT and value and value != default.get(key))
    if strange:
        raise UnsupportedModel(f"The adapter in {folder} uses {strange[0]!r}, which is not known here; train it without.")
    shape = {key: value for key, value in raw.items() if key in _SHAPE}
    return LoraConfig(**shape, init_lora_weights=False, inference_mode=True)


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise UnsupportedModel(f"The adapter in {folder} has no {WEIGHTS}; save it with safe_serialization=True.")
    try:
        weights: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise Damaged(f"{path} is damaged ({error}); get the adapter again.") from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise NotFinite(f"The adapter in {folder} holds values that are not finite, in {name}; train it again.")
    return weights


def _check_promise(base: Base, folder: Path) -> None:
    """Whether a folder published here was trained on these very weights; others do not tell, and their shapes must do."""
    if not (folder / publish.MANIFEST).is_file():
        return
    trained_on = publish.read_manifest(folder).get("about", {}).get("base_fingerprint", "")
    if trained_on and trained_on != base.fingerprint:
        raise WrongBase(f"The adapter in {folder} was trained on other weights than those of {base.name}; load its own base.")


def _of_adapter(base: str, wrapped: PeftModel, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The weights that are the adapter's own: every one that it needs, each in its shape, and nothing that is left over.

    PEFT saves a targeted embedding's base weights too. They must equal the base's, and are left out: to load them would be to
    write into the base.
    """
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    own = {name: tensor for name, tensor in weights.items() if name in expected}
    for name, tensor in expected.items():
        if name not in own:
            raise WrongBase(f"The adapter in {folder} has no {name}, so it does not fit {base}; load its own base.")
        if own[name].shape != tensor.shape:
            raise WrongBase(
                f"The adapter in {folder} has {name} as {tuple(own[name].shape)}, and {base} needs {tuple(tensor.shape)}; "
                "load its own base."
            )
    whole = wrapped.state_dict()
    for name in weights.keys() - own.keys():
        if name not in whole or not torch.equal(weights[name].to(whole[name]), whole[name]):
            raise WrongBase(f"The adapter in {folder} has {name}, which is no part of it on {base}; load its own base.")
    return own
