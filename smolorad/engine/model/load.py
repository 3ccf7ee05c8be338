"""From a model folder to a base model in memory.

Where the native step computes everything, what it needs is read without torch and transformers (`load_native`): it starts in a
fraction of the time, in half of the memory. A caller that needs transformers' model (a training, an adapter that is more than
plain LoRA) has it made of the same weights then. All other models are read by transformers (`load_transformers`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from smolorad.domain import LoadProgress, LoadStage
from smolorad.engine.model.base_model import BaseModel, LoadReport
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.model.load_native import NativePlan, load_native, plan_native
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.memory_check import MemoryCheck
from smolorad.engine.model.placement import MakeDeviceCheck
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.runtime.gc import gc_paused


def no_report(progress: LoadProgress) -> None:
    """Reports nothing."""


def load(
    path: Path,
    name: str,
    options: LoadOptions,
    device_check: MakeDeviceCheck,
    *,
    hardware: Hardware | None = None,
    threads: int | None = None,
    report: LoadReport = no_report,
    memory_check: MemoryCheck | None = None,
) -> BaseModel:
    """Reads the model in the folder `path`, and moves it to where it is to compute; `name` is what messages call it.

    `device_check` makes what checks a device other than the CPU. `hardware` is this machine's unless it is given; `threads` is
    how many compute where torch is not imported, by default one a core. `report` is called at each stage. `memory_check`, if
    there is one, gets what the model takes before its weights are read, and may refuse it.
    Raises NotFound, UnsupportedModel, Damaged, OutOfMemory, and InvalidRequest for a device or dtype that this machine does not
    have.
    """
    folder = ModelFolder.open(path, name=name, trust_remote_code=options.trust_remote_code)
    describing = LoadProgress(LoadStage.READ, 0, folder.size, "describing the model, once")
    plan = native_plan(folder, options, hardware, threads, lambda: report(describing))
    if plan is not None:
        if memory_check is not None:
            memory_check(name, plan.placement, options.precision, plan.sizes(options.kv_dtype))
        return load_native(folder, plan, options, report)
    with gc_paused():
        from smolorad.engine.model.load_transformers import load_transformers

    return load_transformers(folder, options, device_check, hardware=hardware, report=report, memory_check=memory_check)


def native_plan(
    folder: ModelFolder,
    options: LoadOptions,
    hardware: Hardware | None,
    threads: int | None,
    on_describe: Callable[[], None],
) -> NativePlan | None:
    """How the native step serves a model; None where transformers is to read it. Parameters as in `load`."""
    # Once torch is imported, there is nothing to save.
    known = hardware or (None if "torch" in sys.modules else Hardware.without_torch())
    if known is None or options.trust_remote_code:
        return None
    return plan_native(folder, options, hardware=known, threads=threads, on_describe=on_describe)
