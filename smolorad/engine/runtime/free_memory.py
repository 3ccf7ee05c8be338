"""How much memory a model may take: what is free on this machine, in its container, or on a device with memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from smolorad.domain import Device


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that are free now, and bytes that there are at all."""

    free_bytes: int
    total_bytes: int

    def within(self, other: Memory) -> Memory:
        """The lesser of both, each number by itself."""
        return Memory(min(self.free_bytes, other.free_bytes), min(self.total_bytes, other.total_bytes))


MeasureMemory = Callable[[Device], Memory]


def measure_memory(device: Device) -> Memory:
    """The memory for a model on this device."""
    if device is Device.CPU:
        return host_memory()
    try:
        return _device_memory(device)
    except RuntimeError:  # the device does not answer; its check will say so
        return host_memory()


def _device_memory(device: Device) -> Memory:
    import torch

    if device is Device.CUDA:
        free, total = torch.cuda.mem_get_info()
        return Memory(int(free), int(total))
    limit = int(torch.mps.recommended_max_memory())
    # The processor's memory is the GPU's, too.
    return host_memory().within(Memory(max(limit - int(torch.mps.driver_allocated_memory()), 0), limit))


def host_memory(root: Path = Path("/")) -> Memory:
    """The machine's memory, or that of the container that this process runs in. `root` has the folders `proc` and `sys`."""
    machine = psutil.virtual_memory()
    memory = Memory(int(machine.available), int(machine.total))
    for limit in _container_limits(root):
        memory = memory.within(limit)
    return memory


def _container_limits(root: Path) -> Iterator[Memory]:
    """The limits of this process's control groups, from its own to the outermost that can be seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount, names = (
                root / "sys/fs/cgroup/memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if (limit := _limit(folder, *names)) is not None:
                yield limit
            if folder == mount:
                break


def _limit(folder: Path, most: str, used: str, cached: str) -> Memory | None:
    """The limit of one group; None where it has none. What it used may be the files that it read, which it gives back."""
    try:
        total, current = int((folder / most).read_text()), int((folder / used).read_text())
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return Memory(max(total - current + int(counts.get(cached, 0)), 0), total)
    except (OSError, ValueError):  # no such group in this container, or `max`
        return None
