"""What a PEFT LoRA folder tells, read without torch: its shape, and whether its tensors are whole."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolorad.domain import LoraSettings
from smolorad.errors import Damaged, InvalidRequest, UnsupportedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HEADER_LIMIT_BYTES = 100 * 2**20
_CONFIG_LIMIT_BYTES = 2**20
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def read_lora(folder: Path) -> tuple[LoraSettings, int]:
    """The adapter's shape and its number of parameters.

    Raises InvalidRequest where a file is missing, UnsupportedModel for another kind of adapter or pickled weights, Damaged for
    torn files.
    """
    if pickled := sorted(p.name for p in folder.rglob("*") if p.suffix in _PICKLES):
        raise UnsupportedModel(f"{pickled[0]} may run code when it is read; save the adapter as safetensors and send that.")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InvalidRequest.field("upload_id", f"has no {name}; send the files of one PEFT folder")
    return _settings(_config(folder / CONFIG)), _count_parameters(folder / WEIGHTS)


def _config(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _CONFIG_LIMIT_BYTES:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{CONFIG} is not readable JSON ({error}); save the adapter again.") from error
    if not isinstance(found, dict) or str(found.get("peft_type")).upper() != "LORA":
        kind = found.get("peft_type") if isinstance(found, dict) else None
        raise UnsupportedModel(f"{CONFIG} says peft_type {kind!r}, but only LORA adapters can be imported.")
    return found


def _settings(config: Mapping[str, Any]) -> LoraSettings:
    init = config.get("init_lora_weights", True)
    try:
        return LoraSettings(
            r=int(config.get("r", 8)),
            lora_alpha=int(config.get("lora_alpha", 8)),
            lora_dropout=float(config.get("lora_dropout", 0.0)),
            target_modules=_names(config.get("target_modules")),
            exclude_modules=_names(config.get("exclude_modules")),
            bias=str(config.get("bias", "none")),
            use_rslora=bool(config.get("use_rslora", False)),
            use_dora=bool(config.get("use_dora", False)),
            modules_to_save=_names(config.get("modules_to_save")),
            layers_to_transform=_layers(config.get("layers_to_transform")),
            init_lora_weights=str(init).lower() if isinstance(init, bool) else str(init),
            rank_pattern={str(k): int(v) for k, v in (config.get("rank_pattern") or {}).items()},
            alpha_pattern={str(k): int(v) for k, v in (config.get("alpha_pattern") or {}).items()},
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{CONFIG} has a value that is no LoRA setting ({error}); save the adapter again.") from error


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(sorted(str(name) for name in value))


def _layers(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(int(layer) for layer in value)


def _count_parameters(path: Path) -> int:
    """Sums the shapes in the header of a safetensors file, whose size must be what the header says."""
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT_BYTES, size - 8):
            raise Damaged(f"{WEIGHTS} is cut off or no safetensors file; send it again.")
        header = f.read(length)
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        count = sum(math.prod(entry["shape"]) for entry in tensors.values())
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise Damaged(f"{WEIGHTS} has a broken header; send it again.") from error
    if not tensors or size != 8 + length + end:
        raise Damaged(f"{WEIGHTS} is cut off or empty; send it again.")
    return int(count)
