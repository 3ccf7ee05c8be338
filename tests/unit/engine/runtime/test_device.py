"""Where a model computes and in which number format, and the order in which placements are tried."""

from __future__ import annotations

import pytest

from smolorad.domain import Device, Dtype
from smolorad.engine.runtime.device import Hardware, Placement, default_threads, place, placements_to_try
from smolorad.errors import InvalidRequest

MAC = Hardware(mps=True)
SMALL, LARGE = 135_000_000, 1_500_000_000
FP32, BF16, FP16 = Dtype.FLOAT32, Dtype.BFLOAT16, Dtype.FLOAT16
CPU, MPS, CUDA = Device.CPU, Device.MPS, Device.CUDA


@pytest.mark.parametrize(
    ("hardware", "parameters", "expected"),
    [
        (Hardware(), SMALL, (CPU, FP32)),
        (Hardware(cpu_bfloat16=True), SMALL, (CPU, BF16)),
        (MAC, SMALL, (MPS, FP32)),
        (MAC, LARGE, (MPS, BF16)),
        (Hardware(mps=True, cuda=True, cuda_bfloat16=True), SMALL, (MPS, FP32)),
        (Hardware(cuda=True, cuda_bfloat16=True), SMALL, (CUDA, BF16)),
        (Hardware(cuda=True, cpu_bfloat16=True), SMALL, (CUDA, FP32)),
    ],
)
def test_what_is_chosen(hardware: Hardware, parameters: int, expected: tuple[Device, Dtype]) -> None:
    placement = place(None, None, parameters, hardware)
    assert (placement.device, placement.dtype) == expected


def test_what_is_asked_for_is_honoured_or_refused() -> None:
    assert place(CPU, FP16, SMALL, MAC) == Placement(CPU, FP16)
    assert place(MPS, BF16, SMALL, MAC) == Placement(MPS, BF16)
    assert place(CPU, BF16, SMALL, Hardware()) == Placement(CPU, BF16)
    with pytest.raises(InvalidRequest, match="no cuda"):
        place(CUDA, None, SMALL, MAC)
    with pytest.raises(InvalidRequest, match="does not compute bfloat16"):
        place(CUDA, BF16, SMALL, Hardware(cuda=True))


def rungs(device: Device | None, dtype: Dtype | None, parameters: int, hardware: Hardware) -> list[Placement]:
    return list(placements_to_try(place(device, dtype, parameters, hardware), device, dtype, parameters, hardware))


def test_the_ladder_goes_down_to_fp32_then_eager_attention_then_the_cpu() -> None:
    assert rungs(None, None, LARGE, MAC) == [
        Placement(MPS, BF16),
        Placement(MPS, FP32),
        Placement(MPS, FP32, "eager"),
        Placement(CPU, FP32),
    ]
    assert rungs(None, None, SMALL, MAC) == [Placement(MPS, FP32), Placement(MPS, FP32, "eager"), Placement(CPU, FP32)]
    assert rungs(None, None, SMALL, Hardware(cpu_bfloat16=True)) == [Placement(CPU, BF16)]


def test_what_was_asked_for_is_not_given_up() -> None:
    assert rungs(MPS, FP16, SMALL, MAC) == [Placement(MPS, FP16), Placement(MPS, FP16, "eager")]
    assert rungs(None, FP16, SMALL, MAC)[-1] == Placement(CPU, FP16)
    assert all(rung.device is MPS for rung in rungs(MPS, None, LARGE, MAC))


@pytest.mark.parametrize("told", ["", "0", "many", "-1"])
def test_how_many_threads_compute(told: str) -> None:
    assert default_threads({"OMP_NUM_THREADS": "3"}) == 3
    assert 1 <= default_threads({"OMP_NUM_THREADS": told}) == default_threads()
