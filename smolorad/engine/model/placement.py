"""Takes the first device and number format that compute a model correctly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from smolorad.engine.runtime.device import Placement
from smolorad.errors import UnsupportedModel

M = TypeVar("M")


class DeviceCheck(Protocol):
    """Compares a device with the CPU. Part of it is a training step, so the package that does it stands above this one."""

    def kernel_fault(self, placement: Placement) -> str:
        """What the device computes differently even before there is a model; empty if nothing."""

    def move(self, model: Any, placement: Placement) -> tuple[Any, str]:
        """The model, moved from the CPU to its device, and what it computes differently there; empty if nothing."""

    def notes(self, placement: Placement) -> tuple[str, ...]:
        """What users should know about the device."""


# Called when a device other than the CPU is to be checked: it imports torch and PEFT, which most loads need not.
MakeDeviceCheck = Callable[[], DeviceCheck]


def first_that_works(
    placements: Iterable[Placement], attempt: Callable[[Placement], tuple[M, str]]
) -> tuple[M, Placement, tuple[str, ...]]:
    """What `attempt` makes of the first placement without a fault, that placement, and a note for each that was refused.

    `attempt` returns what it made and the fault it found, empty for none. Raises UnsupportedModel if every placement has one.
    """
    notes: list[str] = []
    for placement in placements:
        made, fault = attempt(placement)
        if not fault:
            taken = [f"The self-test took {placement}."] if notes else []
            return made, placement, (*notes, *taken)
        del made  # its memory is needed for the next
        notes.append(f"The self-test refused {placement}: {fault}.")
    raise UnsupportedModel(f"{' '.join(notes)} Leave device and dtype out, and what works is chosen.")
