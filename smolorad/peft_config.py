"""The config of a PEFT folder, with the daemon's and the engine's errors. What it may say stands in `adapter_config.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolora.common.adapter_config import Fault, check_files, read_config
from smolorad.errors import by_reason


def read_peft_config(folder: Path) -> Mapping[str, Any]:
    """The config of a LoRA adapter, each value checked.

    Raises NotFound where there is none, UnsupportedModel for another kind of adapter and for weights that are missing or
    pickled, Damaged for a file that is no config.
    """
    try:
        check_files(folder)
        return read_config(folder)
    except Fault as fault:
        raise by_reason(fault.reason)(fault.message) from fault
