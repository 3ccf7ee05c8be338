"""Estimates what a model takes in memory beside the engine, which may be training."""

from __future__ import annotations

from pathlib import Path

from smolorad.domain import Device, LoadEstimate
from smolorad.engine.model.estimate import Loaded
from smolorad.engine.model.estimate_load import estimate_load
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.memory_check import MemoryCheck
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.runtime.free_memory import Memory, host_memory, measure_memory
from smolorad.engine.worker.fetch import locate_here
from smolorad.engine.worker.progress import Report
from smolorad.link.convert import from_message
from smolorad.link.v1 import link_pb2 as pb


def estimate_not_loaded(command: pb.EstimateLoad, report: Report, threads: int) -> LoadEstimate:
    """What the model of a command would take; `threads` as in `load`.

    Raises NotFound where it is not on this machine, and as `load`.
    """
    before = host_memory()  # before anything is imported that the engine has imported already, or never will

    def measure(device: Device) -> Memory:
        return before if device is Device.CPU else measure_memory(device)

    options, name = from_message(LoadOptions, command.load), command.load.name
    path = Path(command.load.path) if command.load.path else locate_here(command.source, Path(command.cache_path), report)
    check = MemoryCheck(measure, Loaded(command.loaded_name, command.loaded_bytes))
    # As the engine sees this machine, though torch may be imported here by now: it made the folder of a GGUF file.
    hardware = Hardware.without_torch()
    return estimate_load(path, name, options, check, hardware=hardware, threads=threads)
