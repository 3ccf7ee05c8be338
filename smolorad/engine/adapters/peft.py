"""LoRA adapters as PEFT knows them, on views of the base."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor

from smolora.common.adapter_config import SHAPE
from smolorad.engine.adapters import folder as peft_folder
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.folder import check_base_fingerprint
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.torch_runner import TorchRunner
from smolorad.engine.native.decoder import NativeRunner
from smolorad.engine.native.description import Decoder
from smolorad.engine.native.lora import Lora, PlainLora
from smolorad.engine.native.torch_arrays import array_of, tensor_of
from smolorad.engine.runtime.errors import refused
from smolorad.errors import WrongBase

_IS_A = re.compile(r"\.lora_(embedding_)?A\b")
_COMMON_RANK = 256  # memory for it costs little


def adapter_of_folder(base: BaseModel, folder: Path, raw: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Adapter:
    """The adapter of a PEFT folder: for the native step, or else on a view of the base. Raises as `AdapterRegistry.attach`.

    `raw` and `arrays` are what `read_config` and `read_weights` of `adapters.folder` read there.
    """
    config, weights = _config_of(raw, folder), _tensors_of(arrays)
    if base.native is not None and (lora := _plain_lora(base.native.decoder, config, weights)) is not None:
        return Adapter(None, _numbers(weights), NativeRunner(base.native, lora))
    wrapped, parameters = wrap(_view(base, config), base.name, config, weights, folder)
    return _attached(base, wrapped, parameters)


def adapter_of(base: BaseModel, config: LoraConfig, tensors: Mapping[str, Tensor]) -> Adapter:
    """The adapter of tensors under PEFT's file names: for the native step, or else on a view of the base."""
    if base.native is not None and (lora := _plain_lora(base.native.decoder, config, tensors)) is not None:
        return Adapter(None, _numbers(tensors), NativeRunner(base.native, lora))
    config = copy.deepcopy(config)
    config.inference_mode, config.init_lora_weights = True, False
    view = _view(base, config)
    with torch.random.fork_rng(devices=[]):
        wrapped = PeftModel(view, config)
    set_peft_model_state_dict(wrapped, dict(tensors))
    return _attached(base, wrapped, _numbers(tensors))


def _view(base: BaseModel, config: LoraConfig) -> Any:
    """A view to generate from. PEFT finds tied weights by the layers' own parameters, which packed layers do not have."""
    return base.view(own_biases=config.bias != "none" or config.lora_bias, for_generation=not config.ensure_weight_tying)


def _attached(base: BaseModel, wrapped: PeftModel, parameters: int) -> Adapter:
    return Adapter(TorchRunner(wrapped.get_base_model().eval().requires_grad_(False), base.cache_support), parameters)


def _plain_lora(decoder: Decoder, config: LoraConfig, tensors: Mapping[str, Tensor]) -> Lora | None:
    """The adapter for the native step; None if it is more than plain LoRA on projections, or does not fit."""
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
    targets = [name for name in decoder.modules if check_target_module_exists(config, name)]
    arrays = {name: array_of(tensor.detach().float().contiguous()) for name, tensor in tensors.items()}
    return PlainLora.of(config.r, config.lora_alpha, rank_stabilised=config.use_rslora).on(decoder, targets, arrays)


def wrap(model: Any, name: str, config: LoraConfig, weights: Mapping[str, Tensor], folder: Path) -> tuple[PeftModel, int]:
    """Injects an adapter into a model called `name`; returns it, and the number of the adapter's parameters.

    `config` and `weights` are what `folder` has. Raises UnsupportedModel, WrongBase.
    """
    wrapped, own = fit(model, name, config, weights, folder)
    with refused(f"The adapter in {folder} cannot be put on {name}"):
        set_peft_model_state_dict(wrapped, own)
    return wrapped, _numbers(own)


def fit(
    model: Any, name: str, config: LoraConfig, weights: Mapping[str, Tensor], folder: Path
) -> tuple[PeftModel, dict[str, Tensor]]:
    """The model with a place for an adapter, and those of the weights that are the adapter's own; otherwise as `wrap`."""
    config = _within(config, weights)
    # PEFT draws initial weights that are overwritten at once; that must not change the random numbers of a training.
    with torch.random.fork_rng(devices=[]), refused(f"The adapter in {folder} does not fit {name}", WrongBase):
        wrapped = PeftModel(model, config)
    return wrapped, _of_adapter(name, wrapped, weights, folder)


def _within(config: LoraConfig, weights: Mapping[str, Tensor]) -> LoraConfig:
    """The config without ranks far beyond those of the weights: PEFT would allocate them before shapes are compared."""
    ranks = [tensor.shape[0] for name, tensor in weights.items() if _IS_A.search(name) and tensor.ndim]
    most = max(1 + max(ranks, default=0), _COMMON_RANK)
    config = copy.deepcopy(config)
    config.r = min(config.r, most)
    config.rank_pattern = {name: min(rank, most) for name, rank in config.rank_pattern.items()}
    return config


def _numbers(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in weights.values())


def adapter_weights(base: BaseModel, config: LoraConfig, folder: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder with this config, checked against the base; raises as `AdapterRegistry.attach`."""
    check_base_fingerprint(folder, base.fingerprint, base.name)
    view = base.view(own_biases=config.bias != "none" or config.lora_bias)
    return fit(view, base.name, config, read_weights(folder), folder)[1]


def read_config(folder: Path) -> LoraConfig:
    """The shape of a PEFT folder's adapter; raises NotFound, Damaged, UnsupportedModel."""
    return _config_of(peft_folder.read_config(folder), folder)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder; raises as `read_weights` of `adapters.folder`."""
    return _tensors_of(peft_folder.read_weights(folder))


def _config_of(raw: Mapping[str, Any], folder: Path) -> LoraConfig:
    shape = {name: value for name, value in raw.items() if name in SHAPE and value is not None}
    with refused(f"The settings of the adapter in {folder} do not go together"):
        return LoraConfig(**shape, init_lora_weights=False, inference_mode=True)


def _tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: tensor_of(array) for name, array in arrays.items()}


def _of_adapter(base: str, wrapped: PeftModel, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The adapter's own weights: all that it needs, in their shapes, and no others.

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
        if name not in whole or not _same(weights[name], whole[name]):
            raise WrongBase(f"The adapter in {folder} has {name}, which is no part of it on {base}; load its own base.")
    return own


def _same(tensor: Tensor, of_base: Tensor) -> bool:
    """Whether a tensor is the base's; only its shape is compared where the base's weights are not in memory."""
    if of_base.is_meta:
        return tensor.shape == of_base.shape
    return torch.equal(tensor.to(of_base), of_base)
