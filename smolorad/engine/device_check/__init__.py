"""Compares what a device computes with what the CPU computes, before the device is trusted."""

from smolorad.engine.model.placement import DeviceCheck
from smolorad.engine.runtime.gc import gc_paused


def compare_with_cpu() -> DeviceCheck:
    """The check that `load` asks for when a model is to leave the CPU."""
    with gc_paused():
        from smolorad.engine.device_check.cpu_comparison import CpuComparison  # it imports torch and PEFT

    return CpuComparison()
