"""Reads and copies PEFT LoRA folders, without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolora.common.adapter_config import CONFIG, PICKLED, WEIGHTS, whole_alpha
from smolorad.domain import LoraSettings
from smolorad.errors import Damaged, InvalidRequest, NotFound
from smolorad.peft_config import read_peft_config
from smolorad.portable import Source, adapter_config
from smolorad.safetensors_file import SafetensorsFile


def read_lora(folder: Path) -> tuple[LoraSettings, int]:
    """The adapter's shape and its number of parameters. What else lies in the folder is not looked at.

    Raises InvalidRequest where a file is missing, UnsupportedModel for another kind of adapter or pickled weights, Damaged for
    torn files and values that are no settings.
    """
    if not any((folder / name).is_file() for name in (WEIGHTS, PICKLED)):
        raise InvalidRequest.field("upload_id", f"has no {WEIGHTS}; send the files of one PEFT folder")
    try:
        settings = _settings(read_peft_config(folder))
    except NotFound as error:
        raise InvalidRequest.field("upload_id", error.message) from error
    weights = SafetensorsFile.open(folder / WEIGHTS, "send it again", shown=WEIGHTS)
    if not weights.tensors:
        raise Damaged(f"{WEIGHTS} has no tensors; send it again.")
    return settings, sum(tensor.count for tensor in weights.tensors)


def copy_adapter(folder: Path, to: Path, base: Source) -> None:
    """Copies what a PEFT folder's adapter consists of into a new folder; its config names the base by a name."""
    to.mkdir(mode=0o700, parents=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(folder / name, to / name)
    name_base(to, base)


def name_base(folder: Path, base: Source) -> None:
    """Has an adapter's config name its base by a name where it names a path; else the file stays as it is, to the byte."""
    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # damaged since it was published; its next use says so
        return
    if isinstance(raw, dict) and (named := adapter_config(raw, base)) != raw:
        path.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def _settings(config: Mapping[str, Any]) -> LoraSettings:
    init = config.get("init_lora_weights", True)
    return LoraSettings(
        r=config.get("r", 8),
        lora_alpha=whole_alpha(config.get("lora_alpha", 8)),
        lora_dropout=float(config.get("lora_dropout", 0.0)),
        target_modules=_names(config.get("target_modules")),
        exclude_modules=_names(config.get("exclude_modules")),
        bias=config.get("bias", "none"),
        use_rslora=bool(config.get("use_rslora")),
        use_dora=bool(config.get("use_dora")),
        modules_to_save=_names(config.get("modules_to_save")),
        layers_to_transform=_layers(config.get("layers_to_transform")),
        init_lora_weights=init if isinstance(init, str) else str(bool(init)).lower(),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern={name: whole_alpha(alpha) for name, alpha in (config.get("alpha_pattern") or {}).items()},
    )


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(sorted(value))


def _layers(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
