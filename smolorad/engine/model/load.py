"""From a model folder to a resident base.

Where the native step computes everything, what it needs is read without torch and transformers (`load_native`): it starts in a
fraction of the time, in half of the memory. Whoever needs the model as transformers has it (a training, an adapter that is more
than plain LoRA) has it made of the same weights then. All else is transformers' (`load_transformers`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from smolorad.domain import Device, Dtype, LoadProgress, Precision
from smolorad.engine.model.base_model import BaseModel, LoadReport
from smolorad.engine.model.load_native import load_native
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.runtime.gc import gc_paused


def _nobody(progress: LoadProgress) -> None:
    """Hears of a stage."""


def load(
    folder: Path,
    name: str,
    *,
    device: Device | None = None,
    dtype: Dtype | None = None,
    trust_remote_code: bool = False,
    precision: Precision = Precision.EXACT,
    hardware: Hardware | None = None,
    threads: int | None = None,
    report: LoadReport = _nobody,
) -> BaseModel:
    """Reads a model, and brings it where it is to compute.

    None for device or dtype chooses; `hardware` is this machine's unless it is given; `threads` is how many compute where torch
    is not there to be asked, by default one a core. `report` hears of each stage.
    Raises NotFound, UnsupportedModel, Damaged, and InvalidRequest for a device or dtype that cannot be had.
    """
    # Where torch is here already, nothing is to be spared.
    known = hardware or (None if "torch" in sys.modules else Hardware.without_torch())
    if known is not None and not trust_remote_code:
        light = load_native(
            folder, name, device=device, dtype=dtype, precision=precision, hardware=known, threads=threads, report=report
        )
        if light is not None:
            return light
    with gc_paused():
        from smolorad.engine.model.load_transformers import load_transformers

    return load_transformers(
        folder,
        name,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        precision=precision,
        hardware=hardware,
        report=report,
    )
