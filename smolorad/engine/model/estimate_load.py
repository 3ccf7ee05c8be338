"""What loading a model folder would take in memory, without loading it."""

from __future__ import annotations

from pathlib import Path

from smolorad.domain import LoadEstimate
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.model.load import native_plan
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.memory_check import MemoryCheck
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.runtime.gc import gc_paused


def estimate_load(
    path: Path,
    name: str,
    options: LoadOptions,
    memory_check: MemoryCheck,
    *,
    hardware: Hardware | None = None,
    threads: int | None = None,
) -> LoadEstimate:
    """What the model in the folder `path` would take, whether that fits or not. Parameters and errors as in `load`."""
    folder = ModelFolder.open(path, name=name, trust_remote_code=options.trust_remote_code)
    plan = native_plan(folder, options, hardware, threads, lambda: None)
    if plan is not None:
        return memory_check.estimate(name, plan.placement, options.precision, plan.sizes(options.kv_dtype))
    with gc_paused():
        from smolorad.engine.model.transformers_sizes import plan_transformers

    placement, sizes = plan_transformers(folder, options, hardware or Hardware.here())
    return memory_check.estimate(name, placement, options.precision, sizes)
