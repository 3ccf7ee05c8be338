"""A PEFT LoRA folder: which of its files are the adapter, and what its config may say. Read alike before and after sending.

Nothing here needs PEFT, and what it raises is a `Fault`, which client and daemon each turn into an error of their own.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smolora.common.json_file import NotAnObject, read_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
_CONFIG_LIMIT_BYTES = 2**20
_MAX_RANK = 65_536
_MAX_ALPHA = 3.4e38  # the largest number of float32, in which the weights are
_MAX_LAYERS = 2**31

DAMAGED, UNSUPPORTED, MISSING = "DAMAGED", "UNSUPPORTED_MODEL", "NOT_FOUND"


class Fault(Exception):
    """Why a folder is no adapter that can be used; `reason` is the contract's word for it, the message one sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def is_adapter(folder: Path) -> bool:
    """Whether a folder says that it holds an adapter."""
    return (folder / CONFIG).is_file()


def adapter_instead(folder: str) -> str:
    """What to say where an adapter's folder is named as a model."""
    command = f"smolora-client adapters import {shlex.quote(folder)} --name NAME"
    return f"{folder} holds an adapter, not a model; load its base, then type `{command}`."


def check_files(folder: Path) -> None:
    """Raises Fault where a folder has no config or no weights that can be read without running code."""
    if not (folder / CONFIG).is_file():
        found = sorted((path.parent.name for path in folder.glob(f"*/{CONFIG}")), key=lambda name: (len(name), name))
        deeper = f"name a folder in it that is one: {', '.join(found[-5:])}" if found else "name the folder that PEFT wrote"
        raise Fault(MISSING, f"{folder} is not an adapter, for it has no {CONFIG}; {deeper}.")
    if (folder / WEIGHTS).is_file():
        return
    if (folder / PICKLED).is_file():
        raise Fault(
            UNSUPPORTED,
            f"The adapter in {folder} has its weights as a pickle ({PICKLED}), which can run any code when it is read; load it "
            "with PEFT where you trust it, and save it anew with `save_pretrained`, which writes safetensors.",
        )
    raise Fault(UNSUPPORTED, f"The adapter in {folder} has no {WEIGHTS}; save it with safe_serialization=True.")


def read_config(folder: Path) -> Mapping[str, Any]:
    """What the config of a LoRA adapter says, each value checked; raises Fault."""
    path = folder / CONFIG
    try:
        raw = read_object(path, _CONFIG_LIMIT_BYTES)
    except NotAnObject as error:
        raise Fault(DAMAGED, f"{path} {error}; get the adapter again.") from error
    if (kind := raw.get("peft_type")) != "LORA":
        raise Fault(UNSUPPORTED, f"The adapter in {folder} is no LoRA adapter (peft_type {_shown(kind)}); choose a LORA one.")
    for name, value in raw.items():
        _check(name, value, path)
    if (begun := raw.get("init_lora_weights")) not in _PLAIN_BEGINNINGS:
        raise Fault(
            UNSUPPORTED,
            f"The adapter in {folder} was initialised with {_shown(begun)}, which changes the base's weights; save it with "
            "`path_initial_model_for_weight_conversion`, which makes a plain LoRA of it.",
        )
    return raw


def _check(name: str, value: Any, path: Path) -> None:
    if name in _FIELDS:
        fits, words = _FIELDS[name]
        if not fits(value):
            raise Fault(DAMAGED, f"{path} has {_shown(value)} as {name}, which must be {words}; get the adapter again.")
    elif name not in ABOUT and value and value not in HARMLESS.get(name, ()):
        raise Fault(
            UNSUPPORTED, f"The adapter in {path.parent} uses {_shown(name)}, which smolora does not support; train it without."
        )


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, int | str) and len(str(value)[:61]) <= 60 else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


Rule = tuple[Callable[[Any], bool], str]


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character, which JSON can spell
        return False
    return True


def _is_pattern(value: Any) -> bool:
    """Whether it is a regular expression, which PEFT matches with whole names."""
    return _is_text(value) and _compiles(value)


def _is_ending(value: Any) -> bool:
    """Whether it is a regular expression where PEFT puts it: at the end of a name."""
    return _is_text(value) and _compiles(rf"(.*\.)?({value})$")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any, most: float = _MAX_ALPHA, least: float = -_MAX_ALPHA) -> bool:
    # Compared before anything makes a float of it: JSON's whole numbers have no limit.
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value and least <= value <= most


def _is_rank(value: Any) -> bool:
    return _is_whole(value, 1, _MAX_RANK)


def _is_layer(value: Any) -> bool:
    return _is_whole(value, 0, _MAX_LAYERS - 1)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _map_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(_is_ending(key) and fits(one) for key, one in value.items())


def _or_null(*rules: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or any(fits(value) for fits in rules)


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


_FLAG: Rule = (lambda value: value is None or isinstance(value, bool), "true or false")
_MODULES: Rule = (_or_null(_is_pattern, _list_of(_is_text)), "a list of module names, or one pattern")
_TASKS = ("CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

_FIELDS: Mapping[str, Rule] = {
    "r": (_is_rank, f"a whole number from 1 to {_MAX_RANK:,}"),
    "lora_alpha": (_is_number, "a finite number"),
    "lora_dropout": (lambda value: _is_number(value, 1.0, 0.0), "a number from 0 to 1"),
    "target_modules": _MODULES,
    "exclude_modules": _MODULES,
    "modules_to_save": (_or_null(_list_of(_is_text)), "a list of module names"),
    "bias": (_one_of("none", "all", "lora_only"), "none, all or lora_only"),
    "use_rslora": _FLAG,
    "use_dora": _FLAG,
    "fan_in_fan_out": _FLAG,
    "lora_bias": _FLAG,
    "ensure_weight_tying": _FLAG,
    "inference_mode": _FLAG,
    "layers_to_transform": (_or_null(_is_layer, _list_of(_is_layer)), "a layer's number from 0, or a list of them"),
    "layers_pattern": (_or_null(_is_ending, _list_of(_is_ending)), "a pattern, or a list of patterns"),
    "rank_pattern": (_or_null(_map_of(_is_rank)), f"whole numbers from 1 to {_MAX_RANK:,} by module name or pattern"),
    "alpha_pattern": (_or_null(_map_of(_is_number)), "finite numbers by module name or pattern"),
    "task_type": (_or_null(_one_of(*_TASKS)), f"one of {', '.join(_TASKS)}"),
    "init_lora_weights": (lambda value: value is None or isinstance(value, bool) or _is_text(value), "true, false or a name"),
    "base_model_name_or_path": (_or_null(_is_text), "a model's name"),
    "revision": (_or_null(_is_text), "a model's revision"),
}
# What shapes an adapter. All else must be as PEFT has it by default: some fields change the base's own weights, some need hooks
# that only PEFT's wrapper has, one names a module to import.
SHAPE = frozenset(_FIELDS) - {"init_lora_weights", "base_model_name_or_path", "revision", "inference_mode"}
# Beginnings that leave the base as it is. The others (`pissa`, `olora`, `loftq` ...) move a part of it into the adapter.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")
# What says something about an adapter and changes nothing.
ABOUT = frozenset({"peft_type", "peft_version", "auto_mapping", "eva_config"})
# Fields of other kinds of LoRA, with the values that mean nothing; so does whatever is empty.
HARMLESS: Mapping[str, Sequence[Any]] = {
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
    "runtime_config": ({"ephemeral_gpu_offload": False},),
}


def whole_alpha(value: float) -> int:
    """The whole number nearest to an alpha, which may have a fraction, within the contract's field."""
    return max(-_MAX_LAYERS, min(_MAX_LAYERS - 1, math.floor(value + 0.5)))
