"""bfloat16 in numpy is torch's."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from smolorad.engine.native.torch_arrays import array_of, tensor_of
from smolorad.engine.runtime.dtypes import to_bf16, to_fp32

ANY_BITS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50)
BORDERS = [0x0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 0x3F807FFF, 0x1, 0x7FC00000, 0x7F800001]


@given(bits=ANY_BITS)
def test_rounding_is_torch_s(bits: list[int]) -> None:
    numbers = np.array([*bits, *BORDERS], dtype=np.uint32).view(np.float32)
    theirs = torch.from_numpy(numbers.copy()).bfloat16()
    ours = tensor_of(to_bf16(numbers))
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours[~ours.isnan()], theirs[~theirs.isnan()])


@given(bits=ANY_BITS)
def test_every_bfloat16_is_that_number(bits: list[int]) -> None:
    halves = np.array([bit >> 16 for bit in bits], dtype=np.uint16)
    theirs = tensor_of(halves).float().numpy()
    assert np.array_equal(to_fp32(halves), theirs, equal_nan=True)
    assert to_bf16(halves) is halves


def test_float16_takes_the_way_over_fp32() -> None:
    numbers = np.array([1.0, -2.5, 65504.0, 6e-8], dtype=np.float16)
    assert np.array_equal(to_fp32(numbers), numbers.astype(np.float32))
    assert torch.equal(tensor_of(to_bf16(numbers)), torch.from_numpy(numbers).bfloat16())


def test_the_memory_is_the_same() -> None:
    tensor = torch.arange(6.0).bfloat16().reshape(2, 3)
    array = array_of(tensor)
    array[0, 0] = to_bf16(np.float32(9.0)[None])[0]
    assert tensor[0, 0] == 9.0
    assert tensor_of(array).data_ptr() == tensor.data_ptr()
