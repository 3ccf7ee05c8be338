"""The first placement that works is taken, and each refusal is noted."""

from __future__ import annotations

from typing import Any

import pytest

from smolorad.domain import Device, Dtype
from smolorad.engine.model.placement import first_that_works
from smolorad.engine.runtime.device import Hardware, Placement
from smolorad.errors import UnsupportedModel
from tests.unit.engine.runtime.test_device import rungs

MAC = Hardware(mps=True)
SMALL, LARGE = 135_000_000, 1_500_000_000


def stand_in(*broken: Placement) -> Any:
    """A machine on which some placements compute wrong numbers."""
    return lambda placement: (f"model on {placement}", "attention leaks" if placement in broken else "")


def test_a_device_without_fault_leaves_no_notes() -> None:
    assert first_that_works(rungs(None, None, SMALL, MAC), stand_in()) == (
        "model on float32 on mps with sdpa attention",
        Placement(Device.MPS, Dtype.FLOAT32),
        (),
    )


@pytest.mark.parametrize("refused", range(4))
def test_each_refusal_takes_the_next_rung_and_is_told(refused: int) -> None:
    order = rungs(None, None, LARGE, MAC)
    made, placement, notes = first_that_works(order, stand_in(*order[:refused]))
    assert placement == order[refused]
    assert made == f"model on {placement}"
    assert len(notes) == (refused + 1 if refused else 0)
    assert all("attention leaks" in note for note in notes[:refused])
    assert not refused or str(placement) in notes[-1]


def test_nothing_left() -> None:
    order = rungs(Device.MPS, Dtype.FLOAT16, SMALL, MAC)
    with pytest.raises(UnsupportedModel, match="Leave device and dtype out"):
        first_that_works(order, stand_in(*order))
