"""Our LoRA settings as PEFT's, checked against the modules that the model has, and how an adapter is written."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, TaskType, get_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from smolora.common.adapter_config import WEIGHTS, whole_alpha
from smolorad.domain import LoraSettings
from smolorad.engine.adapters.pattern_time import as_name, is_slow_name
from smolorad.errors import InvalidRequest, NotFinite
from smolorad.portable import Source

DEFAULT_TARGETS = ("q_proj", "v_proj")
# Names of the projection in which attention's, or a state-space mixer's, are fused.
FUSED_TARGETS = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "att_proj", "W_pack", "in_proj")
ALL_LINEAR = "all-linear"
# Mixers of these names read the weight of a projection without calling it, so that a LoRA on it would do nothing.
_READ_ONLY = ("dt_proj",)
_MAMBA_KINDS = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})  # where PEFT refuses `out_proj`
_ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding)


def lora_config(settings: LoraSettings, model: Any) -> LoraConfig:
    """The peft.LoraConfig for a model, its target modules resolved to names.

    Raises InvalidRequest that names the field and what the model has: for a module, a layer or a pattern that is not there,
    for the output head as a target, and for settings that exclude each other.
    """
    init = _init_lora_weights(settings)
    layers = _layers(settings.layers_to_transform, model)
    _check_names("modules_to_save", settings.modules_to_save, model)
    _check_names("exclude_modules", settings.exclude_modules, model)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_targets(settings.target_modules, model),
        exclude_modules=list(settings.exclude_modules) or None,
        bias=settings.bias,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        modules_to_save=list(settings.modules_to_save) or None,
        layers_to_transform=layers or None,
        init_lora_weights=init,
        rank_pattern=dict(settings.rank_pattern),
        alpha_pattern=dict(settings.alpha_pattern),
    )
    adapted = adapted_modules(config, model)
    if not adapted:
        raise InvalidRequest.field(
            "lora.exclude_modules", "and layers_to_transform leave no target module over; leave fewer of them out"
        )
    _check_pattern("rank_pattern", settings.rank_pattern, adapted)
    _check_pattern("alpha_pattern", settings.alpha_pattern, adapted)
    # PEFT would find this out by itself, with a warning for each layer.
    config.fan_in_fan_out = all(isinstance(module, Conv1D) for module in adapted.values())
    return config


def resolved(settings: LoraSettings, config: LoraConfig) -> LoraSettings:
    """The settings as the adapter's config has them."""
    return dataclasses.replace(
        settings,
        r=config.r,
        lora_alpha=whole_alpha(config.lora_alpha),
        target_modules=tuple(sorted(config.target_modules)),
        init_lora_weights="true" if config.init_lora_weights is True else config.init_lora_weights,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern={name: whole_alpha(alpha) for name, alpha in config.alpha_pattern.items()},
    )


def adapted_modules(config: LoraConfig, model: Any) -> dict[str, nn.Module]:
    """The modules that get a LoRA, by full name."""
    return {name: module for name, module in model.named_modules() if check_target_module_exists(config, name)}


def adapted_parameters(config: LoraConfig, model: Any) -> int:
    """About how many parameters an adapter has on a model, and the modules that are trained whole with it."""
    pairs: int = sum(config.r * sum(cast(Tensor, module.weight).shape) for module in adapted_modules(config, model).values())
    whole = [module for name in config.modules_to_save or () for module in _named(name, model)]
    return pairs + sum(parameter.numel() for module in whole for parameter in module.parameters())


def linear_names(model: Any) -> list[str]:
    """Names by which PEFT finds the model's linear modules that can have a LoRA, without the output head; sorted."""
    head = model.get_output_embeddings()
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head}
    names = {_ending(name) for name in linear} - _without_lora(model)
    return sorted(name for name in names if not _means_experts(name, model))


def _ending(name: str) -> str:
    """The last part of a module's name, and of one in a list that of the list, too: a layer may have the same number."""
    rest, _, last = name.rpartition(".")
    return f"{_ending(rest)}.{last}" if last.isdigit() and rest else last


def _without_lora(model: Any) -> set[str]:
    return {*_READ_ONLY, "out_proj"} if model.config.model_type in _MAMBA_KINDS else set(_READ_ONLY)


def _means_experts(name: str, model: Any) -> bool:
    """Whether PEFT would adapt the parameters of a mixture's experts instead of the linear modules of this name.

    Experts were modules of these names once, and PEFT reads adapters of that time; dense layers and shared experts still are.
    """
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # experts whose parts are fused cannot be adapted in part
        return True
    return not config.target_modules


def changes_base(config: LoraConfig) -> bool:
    """Whether PEFT takes the adapter's initial weights out of the base's (PiSSA, OLoRA)."""
    return isinstance(config.init_lora_weights, str) and config.init_lora_weights.startswith(("pissa", "olora"))


def own_adapted_weights(config: LoraConfig, view: Any) -> None:
    """Gives a view copies of the weights it adapts, so that an initialisation that changes them leaves the base as it is."""
    for module in adapted_modules(config, view).values():
        weight = cast(Tensor, module.weight)
        module.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def adapter_tensors(model: Any) -> dict[str, Tensor]:
    """Copies of the adapter's tensors, under the names that PEFT gives them in a file."""
    # Without the last argument PEFT would ask the hub whether the base's vocabulary has grown.
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], config: LoraConfig, base: Source) -> None:
    """Writes a plain PEFT folder of an adapter on `base`.

    Raises NotFinite, with nothing written, where a tensor has NaN or infinity.
    """
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise NotFinite(f"The adapter is not finite ({broken[0]}); train again with a lower trainer.learning_rate.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = copy.copy(config)
    config.inference_mode = True
    # PEFT would write the path of the base's folder, which exists only on this machine.
    config.base_model_name_or_path, config.revision = base.name, base.revision
    config.target_modules = sorted(config.target_modules)  # PEFT keeps a set, whose order changes from process to process
    config.save_pretrained(folder)
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})


def as_plain_lora(
    tensors: Mapping[str, Tensor], start: Mapping[str, Tensor], config: LoraConfig
) -> tuple[dict[str, Tensor], LoraConfig]:
    """The same update as a LoRA of twice the rank on the unchanged base, for an adapter whose initialisation changed the base.

    With base W = R + s B0 A0 and the trained R + s B A, the update is s (B A - B0 A0) = s [B, -B0] [A; A0].
    """
    plain = dict(tensors)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            plain[name] = torch.cat([tensor, start[name]], dim=0)
        elif ".lora_B." in name:
            plain[name] = torch.cat([tensor, -start[name]], dim=1)
    config = copy.deepcopy(config)
    config.init_lora_weights = True
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: 2 * alpha for name, alpha in config.alpha_pattern.items()}
    return plain, config


def _targets(wanted: Sequence[str], model: Any) -> list[str]:
    linear = linear_names(model)
    if ALL_LINEAR in wanted:
        if len(wanted) > 1:
            raise InvalidRequest.field("lora.target_modules", f"{ALL_LINEAR} already means all; leave the other names out")
        # Names, since PEFT's own expansion would make it overlook layers_to_transform.
        return linear
    for name in wanted:
        _check_target(name, model, linear)
    if wanted:
        return list(wanted)
    return _default_targets(model, linear)


def _default_targets(model: Any, linear: Sequence[str]) -> list[str]:
    kind = model.config.model_type
    mapped = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind, ())
    # Some of PEFT's are patterns, of models that have the usual names.
    for candidates in (DEFAULT_TARGETS, () if isinstance(mapped, str) else mapped):
        found = [name for name in candidates if name in linear]
        if found:
            return found
    fused = [name for name in FUSED_TARGETS if name in linear]
    if fused or linear:
        return fused[:1] or list(linear)
    raise InvalidRequest.field("lora.target_modules", f"there is no default for a {kind}, which has no linear modules")


def _check_target(name: str, model: Any, linear: Sequence[str]) -> None:
    modules = _named(name, model)
    if not modules or not all(isinstance(module, _ADAPTABLE) for module in modules):
        raise InvalidRequest.field(
            "lora.target_modules", f"the model has no linear module {name!r}; choose from {', '.join(linear)}, or {ALL_LINEAR}"
        )
    if name.rpartition(".")[2] in _without_lora(model):
        raise InvalidRequest.field(
            "lora.target_modules",
            f"a {model.config.model_type} reads the weight of {name!r} itself; choose from {', '.join(linear)}",
        )
    if _means_experts(name, model):
        raise InvalidRequest.field(
            "lora.target_modules",
            f"PEFT takes {name!r} of a {model.config.model_type} for its experts, which are no modules; choose from "
            f"{', '.join(linear)}, or {ALL_LINEAR}",
        )
    if any(module is model.get_output_embeddings() for module in modules):
        raise InvalidRequest.field(
            "lora.target_modules", f"{name!r} is the output head, which is trained whole; put it into modules_to_save"
        )


def _named(name: str, model: Any) -> list[nn.Module]:
    """The modules that PEFT means by a name: the whole name, or its last parts."""
    return [module for full, module in model.named_modules() if full == name or full.endswith(f".{name}")]


def _check_names(field: str, names: Sequence[str], model: Any) -> None:
    for name in names:
        if not name or not _named(name, model):
            there = sorted({full.rpartition(".")[2] for full, module in model.named_modules() if isinstance(module, nn.Module)})
            words = [part for part in there if part and not part.isdigit()]
            raise InvalidRequest.field(f"lora.{field}", f"the model has no module {name!r}; it has {', '.join(words)}")


def _layers(wanted: Sequence[int], model: Any) -> list[int]:
    count = model.config.get_text_config().num_hidden_layers
    for layer in wanted:
        if not 0 <= layer < count:
            raise InvalidRequest.field("lora.layers_to_transform", f"there is no layer {layer}; it may be 0 to {count - 1}")
    return list(wanted)


def _check_pattern(field: str, pattern: Mapping[str, int], adapted: Mapping[str, nn.Module]) -> None:
    for key, value in pattern.items():
        if value < 1:
            raise InvalidRequest.field(f"lora.{field}", f"is {value} for {key!r}, but must be at least 1")
        try:
            expression = re.compile(as_name(key))
        except re.error as error:
            raise InvalidRequest.field(f"lora.{field}", f"{key!r} is not a name or a pattern: {error}") from error
        if is_slow_name(key, adapted):
            raise InvalidRequest.field(f"lora.{field}", f"{key!r} takes too long to match; write it without repeats of repeats")
        if not any(expression.match(name) for name in adapted):
            names = sorted({name.rpartition(".")[2] for name in adapted})
            raise InvalidRequest.field(f"lora.{field}", f"{key!r} matches no target module; they are {', '.join(names)}")


def _init_lora_weights(settings: LoraSettings) -> bool | str:
    init = settings.init_lora_weights
    if init == "true":
        return True
    if not re.fullmatch(r"gaussian|olora|pissa(_niter_[1-9][0-9]{0,2})?", init):
        raise InvalidRequest.field(
            "lora.init_lora_weights", f"is {init!r}, but must be true, gaussian, olora, pissa or pissa_niter_N"
        )
    if init != "gaussian" and (settings.use_dora or settings.use_rslora):
        other = "use_dora" if settings.use_dora else "use_rslora"
        raise InvalidRequest.field("lora.init_lora_weights", f"{init} does not go with {other}; choose true or gaussian")
    return init
