"""Compares what a model takes with what is free, before its weights are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smolorad.domain import LoadEstimate, Precision
from smolorad.engine.model.estimate import NOTHING_LOADED, Choice, Loaded, ModelSizes, estimate, refuse_what_cannot_fit
from smolorad.engine.runtime.device import Placement
from smolorad.engine.runtime.free_memory import MeasureMemory, measure_memory


def _no_report(found: LoadEstimate) -> None:
    """Reports nothing."""


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """`report` gets the estimate of each load; `loaded` is the model that stays until the new one is ready."""

    measure: MeasureMemory = measure_memory
    loaded: Loaded = NOTHING_LOADED
    report: Callable[[LoadEstimate], None] = _no_report

    def __call__(self, name: str, placement: Placement, precision: Precision, sizes: ModelSizes) -> None:
        """Reports what the model takes; raises OutOfMemory where that is more than there is at all."""
        found = self.estimate(name, placement, precision, sizes)
        self.report(found)
        refuse_what_cannot_fit(found)

    def estimate(self, name: str, placement: Placement, precision: Precision, sizes: ModelSizes) -> LoadEstimate:
        """What the model takes in this place."""
        choice = Choice(placement.dtype, precision)
        if choice not in sizes.weights:  # loading says why it cannot be read that way
            choice = Choice(placement.dtype, Precision.EXACT)
        return estimate(name, placement.device, choice, sizes, self.measure(placement.device), self.loaded)
