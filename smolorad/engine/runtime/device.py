"""The devices and number formats that a model can compute with."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil

from smolorad.domain import Device, Dtype
from smolorad.errors import InvalidRequest

if TYPE_CHECKING:
    import torch

# Up to this size decoding on Metal waits for the host, not for memory, so fp32 costs almost nothing and is exact.
MPS_FLOAT32_PARAMETERS = 500_000_000
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "svebf16"})  # instructions
# Devices in Linux's /dev for GPUs that torch may support: NVIDIA's, AMD's, and either under Windows.
_GPUS = ("nvidia[0-9]*", "kfd", "dxg")


@dataclass(frozen=True, slots=True)
class Hardware:
    """The devices of this machine."""

    mps: bool = False
    cuda: bool = False
    cpu_bfloat16: bool = False  # the CPU has instructions for it; without them it is slower than fp32
    cuda_bfloat16: bool = False

    @classmethod
    def without_torch(cls) -> Hardware | None:
        """The hardware of a Linux machine with a CPU only; None where torch must be asked."""
        if sys.platform != "linux" or any(next(Path("/dev").glob(gpu), None) for gpu in _GPUS):
            return None
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
        except OSError:
            return None
        able = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
        return cls(cpu_bfloat16=not _BFLOAT16.isdisjoint(able))

    @classmethod
    def here(cls) -> Hardware:
        """Asks torch."""
        import torch

        cuda = torch.cuda.is_available()
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return cls(
            mps=torch.backends.mps.is_available(),
            cuda=cuda,
            cpu_bfloat16=any(able.get(name, False) for name in _BFLOAT16),
            cuda_bfloat16=cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        )

    def has(self, device: Device) -> bool:
        """Whether this machine has the device."""
        return {Device.CPU: True, Device.MPS: self.mps, Device.CUDA: self.cuda}[device]


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, a number format, and transformers' name of an attention."""

    device: Device
    dtype: Dtype
    attention: str = "sdpa"

    def __str__(self) -> str:
        return f"{self.dtype} on {self.device} with {self.attention} attention"

    @property
    def torch_dtype(self) -> torch.dtype:
        """torch's object for the number format."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def place(device: Device | None, dtype: Dtype | None, parameters: int, hardware: Hardware) -> Placement:
    """The first choice for a model of `parameters` parameters; a device or dtype of None is chosen here.

    Raises InvalidRequest for a device that this machine does not have, or a format that the device does not compute.
    """
    if device is None:
        device = Device.MPS if hardware.mps else Device.CUDA if hardware.cuda else Device.CPU
    elif not hardware.has(device):
        raise InvalidRequest.field("device", f"this machine has no {device}; leave the device out and it is chosen for you")
    if dtype is Dtype.BFLOAT16 and device is Device.CUDA and not hardware.cuda_bfloat16:
        raise InvalidRequest.field("dtype", "this GPU does not compute bfloat16; use float16 or float32, or leave it out")
    return Placement(device, dtype or default_dtype(device, parameters, hardware))


def default_dtype(device: Device, parameters: int, hardware: Hardware) -> Dtype:
    """The format that the device computes fast; on MPS half precision only where fp32 would be slower."""
    match device:
        case Device.CPU:
            half = hardware.cpu_bfloat16
        case Device.CUDA:
            half = hardware.cuda_bfloat16
        case Device.MPS:
            half = parameters > MPS_FLOAT32_PARAMETERS
    return Dtype.BFLOAT16 if half else Dtype.FLOAT32


def placements_to_try(
    first: Placement, device: Device | None, dtype: Dtype | None, parameters: int, hardware: Hardware
) -> Iterator[Placement]:
    """The first choice, then what to try in order where the device check refuses it: fp32, eager attention, the CPU.

    A requested device or format is never replaced.
    """
    if first.device is Device.CPU:
        yield first  # the others are compared with the CPU
        return
    formats = [first.dtype] if dtype is not None else list(dict.fromkeys([first.dtype, Dtype.FLOAT32]))
    for format in formats:
        yield replace(first, dtype=format)
    yield replace(first, dtype=formats[-1], attention="eager")
    if device is None:
        yield Placement(Device.CPU, dtype or default_dtype(Device.CPU, parameters, hardware))


def trim_memory(device: Device) -> None:
    """Gives unused memory back to the system."""
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc keeps freed memory
        trim(0)
    if device is not Device.CPU:
        import torch

        torch.mps.empty_cache() if device is Device.MPS else torch.cuda.empty_cache()


def default_threads(environ: Mapping[str, str] = MappingProxyType({})) -> int:
    """The number of compute threads: OMP_NUM_THREADS, or one for each core that this process may use, as in torch."""
    if (given := environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(given) > 0:
        return int(given)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)
