"""Kernels and models that compute differently than the CPU are found."""

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
from tests.unit.engine.kit import plain_model

FP32, FP16, CPU = Dtype.FLOAT32, Dtype.FLOAT16, Device.CPU


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
