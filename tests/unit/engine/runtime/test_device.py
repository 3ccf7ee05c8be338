"""Where a model computes, in which number format, and what is taken where the self-test refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smolorad.domain import Device, Dtype
from smolorad.engine.device_check import logits
from smolorad.engine.device_check.kernels import attention_fault
from smolorad.engine.device_check.logits import logits_fault, trace
from smolorad.engine.model.placement import first_that_works
from smolorad.engine.runtime.device import Hardware, Placement, default_threads, place, placements_to_try
from smolorad.errors import InvalidRequest, UnsupportedModel
from tests.unit.engine.kit import plain_model

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


def stand_in(*broken: Placement) -> Any:
    """A machine on which some placements compute wrong numbers."""
    return lambda placement: (f"model on {placement}", "attention leaks" if placement in broken else "")


def test_a_device_without_fault_leaves_no_notes() -> None:
    assert first_that_works(rungs(None, None, SMALL, MAC), stand_in()) == (
        "model on float32 on mps with sdpa attention",
        Placement(MPS, FP32),
        (),
    )


@pytest.mark.parametrize("refused", range(4))
def test_each_refusal_takes_the_next_rung_and_is_told(refused: int) -> None:
    order = rungs(None, None, LARGE, MAC)
    if refused == len(order):
        return
    made, placement, notes = first_that_works(order, stand_in(*order[:refused]))
    assert placement == order[refused]
    assert made == f"model on {placement}"
    assert len(notes) == (refused + 1 if refused else 0)
    assert all("attention leaks" in note for note in notes[:refused])
    assert not refused or str(placement) in notes[-1]


def test_nothing_left() -> None:
    order = rungs(MPS, FP16, SMALL, MAC)
    with pytest.raises(UnsupportedModel, match="Leave device and dtype out"):
        first_that_works(order, stand_in(*order))


@pytest.mark.parametrize("dtype", Dtype)
def test_the_cpu_passes(dtype: Dtype) -> None:
    assert attention_fault(CPU, dtype) == ""


def leaks_the_next_token(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """As pytorch#195910: the causal mask is applied once for four queries."""
    if not options.get("is_causal"):
        return F.scaled_dot_product_attention(query, key, value, **options)
    length = query.shape[-2]
    mask = torch.arange(length)[None, :] <= (torch.arange(length) // 4 * 4 + 3)[:, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def is_wrong_above_1024(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """As pytorch#174861."""
    out = F.scaled_dot_product_attention(query, key, value, **options)
    return out if query.shape[-2] <= 1024 else out.flip(1)


def is_nan_off_the_tile(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """As pytorch#169222."""
    out = F.scaled_dot_product_attention(query, key, value, **options)
    return out if query.shape[-2] % 32 == 0 else out * float("nan")


def is_wrong_for_one_token(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """As pytorch#174861 and #169222 are: the kernels that only a step of one token takes, here that for long texts."""
    out = F.scaled_dot_product_attention(query, key, value, **options)
    return out.flip(1) if query.shape[-2] == 1 and key.shape[-2] >= 1024 else out


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (leaks_the_next_token, "causal"),
        (is_wrong_above_1024, "1100"),
        (is_nan_off_the_tile, "nan"),
        (is_wrong_for_one_token, "one token's attention over 1100"),
    ],
)
@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_known_faults_are_found(kernel: Any, words: str, dtype: Dtype) -> None:
    assert words in attention_fault(CPU, dtype, kernel)


def test_a_model_that_answers_otherwise_is_found(llama_folder: Path) -> None:
    model = plain_model(llama_folder)
    expected = trace(model)
    assert len(expected.tokens) == logits.GREEDY_TOKENS
    assert logits_fault(model, FP32, expected) == ""
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight.mul_(1.5)
    assert "logits of token" in logits_fault(model, FP32, expected)


@pytest.mark.parametrize("told", ["", "0", "many", "-1"])
def test_how_many_threads_compute(told: str) -> None:
    assert default_threads({"OMP_NUM_THREADS": "3"}) == 3
    assert 1 <= default_threads({"OMP_NUM_THREADS": told}) == default_threads()
