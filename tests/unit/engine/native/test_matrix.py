"""Packed matrices and products, against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smolora.common.paths import cache_path
from smolorad.engine.native.build import library
from smolorad.engine.native.library import Format, Library, Matrix
from smolorad.engine.native.torch_arrays import array_of

# Half a step of rounding where the largest number is 1, and a little for scales in bf16. INT4 takes the least sum of squares,
# for which a single number may be off by more.
_ERROR = {Format.INT8: 0.5 / 127 * 1.01, Format.INT4: 2 / 15, Format.INT5: 2 / 31}
_PACKED = tuple(_ERROR)


@pytest.fixture(scope="module")
def compiled() -> Library:
    built = library(cache_path(), 2)
    assert built is not None, "these tests need a C compiler"
    return built


def multiply(compiled: Library, x: Tensor, matrix: Matrix) -> Tensor:
    return torch.from_numpy(compiled.multiply(x.numpy(), matrix))


def draw(rows: int, cols: int, seed: int) -> Tensor:
    return torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@given(rows=st.integers(1, 70), groups=st.integers(1, 5), seed=st.integers(0, 99))
@pytest.mark.parametrize("format", _PACKED)
@settings(max_examples=25)
def test_rounding_is_as_near_as_the_bits_allow(compiled: Library, format: Format, rows: int, groups: int, seed: int) -> None:
    weight = draw(rows, 32 * groups, seed)
    back = multiply(compiled, torch.eye(32 * groups), compiled.pack(array_of(weight), format)).T
    assert float((back - weight).abs().max()) <= _ERROR[format]


@pytest.mark.parametrize("format", _PACKED)
def test_few_values_are_kept_exactly(compiled: Library, format: Format) -> None:
    weight = torch.tensor([-1.0, 0.0, 0.5, 1.0]).repeat(16, 16)
    back = multiply(compiled, torch.eye(64), compiled.pack(array_of(weight), format)).T
    torch.testing.assert_close(back, weight, atol=0.004 if format is Format.INT8 else 0.06, rtol=0)
    zeros = compiled.pack(array_of(torch.zeros(16, 64)), format)
    assert torch.equal(multiply(compiled, torch.ones(3, 64), zeros), torch.zeros(3, 16))


@given(count=st.integers(1, 40), rows=st.integers(1, 50), cols=st.integers(1, 6).map(lambda n: 32 * n), seed=st.integers(0, 99))
@pytest.mark.parametrize("format", list(Format))
@settings(max_examples=20)
def test_a_product(compiled: Library, format: Format, count: int, rows: int, cols: int, seed: int) -> None:
    weight, x = draw(rows, cols, seed), draw(count, cols, seed + 1) * 3
    match format:
        case Format.FP32:
            matrix, known = Matrix.of(array_of(weight)), weight
        case Format.BF16:
            matrix, known = Matrix.of(array_of(weight.bfloat16())), weight.bfloat16().float()
        case _:
            matrix = compiled.pack(array_of(weight), format)
            known = multiply(compiled, torch.eye(cols), matrix).T
    tolerance = {Format.FP32: 1e-5, Format.BF16: 0.01}.get(format, 0.001)  # bf16 may round the vectors, too
    torch.testing.assert_close(multiply(compiled, x, matrix), x @ known.T, rtol=tolerance, atol=tolerance * cols**0.5)


@given(count=st.sampled_from([3, 29]), rows=st.integers(1, 40), cols=st.integers(1, 100))
@settings(max_examples=40)
def test_any_number_of_columns_in_plain_formats(compiled: Library, count: int, rows: int, cols: int) -> None:
    weight, x = draw(rows, cols, 1), draw(count, cols, 2)
    torch.testing.assert_close(multiply(compiled, x, Matrix.of(array_of(weight))), x @ weight.T, rtol=1e-5, atol=1e-5)
    half = weight.bfloat16()
    torch.testing.assert_close(multiply(compiled, x, Matrix.of(array_of(half))), x @ half.float().T, rtol=0.01, atol=0.05)


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(compiled: Library, format: Format, bad: float) -> None:
    weight, x = draw(16, 64, 1), draw(1, 64, 2)
    x[0, 5] = bad
    matrix = Matrix.of(array_of(weight)) if format is Format.FP32 else Matrix.of(array_of(weight.bfloat16()))
    if format in _PACKED:
        matrix = compiled.pack(array_of(weight), format)
    assert not torch.isfinite(multiply(compiled, x, matrix)).any()


@pytest.mark.parametrize("format", list(Format))
def test_company_changes_no_bit(compiled: Library, format: Format) -> None:
    weight, x = draw(100, 96, 1), draw(13, 96, 2)
    matrix = Matrix.of(array_of(weight)) if format is Format.FP32 else Matrix.of(array_of(weight.bfloat16()))
    if format in _PACKED:
        matrix = compiled.pack(array_of(weight), format)
    together = multiply(compiled, x, matrix)
    assert torch.equal(together, torch.cat([multiply(compiled, row[None], matrix) for row in x]))


def packed(compiled: Library, weight: Tensor, format: Format) -> Tensor:
    """What a packed copy holds."""
    return multiply(compiled, torch.eye(weight.shape[1]), compiled.pack(array_of(weight.contiguous()), format)).T


def plainly_rounded(weight: Tensor, levels: int) -> Tensor:
    """Each group rounded between its least and its largest number, with a scale and a minimum in bf16."""
    groups = weight.unflatten(1, (-1, 32))
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale, minimum = ((high - low) / levels).bfloat16().float(), low.bfloat16().float()
    q = ((groups - minimum) / scale.clamp_min(1e-30)).round().clamp(0, levels)
    return (q * scale + minimum).flatten(1)


_SHAPES = {
    "normal": lambda w: w,
    "outliers": lambda w: w * torch.where(torch.rand(w.shape, generator=torch.Generator().manual_seed(9)) < 0.01, 20.0, 1.0),
    "groups of many sizes": lambda w: w * torch.logspace(-1, 1, w.shape[1] // 32).repeat_interleave(32),
    "far from zero": lambda w: w + 5,
    "tiny": lambda w: w * 1e-25,
    "huge": lambda w: w * 1e25,
}


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize(("format", "levels"), [(Format.INT4, 15), (Format.INT5, 31)])
def test_a_row_is_rounded_better_than_plainly(compiled: Library, format: Format, levels: int, shape: str) -> None:
    weight = _SHAPES[shape](torch.randn(40, 256, generator=torch.Generator().manual_seed(1)))
    unit = weight.abs().max()
    error, plain = (
        ((back - weight) / unit).square().sum() for back in (packed(compiled, weight, format), plainly_rounded(weight, levels))
    )
    assert error < 0.98 * plain


@pytest.mark.parametrize("format", [Format.INT4, Format.INT5])
def test_zeros_beside_one_large_number_and_constant_rows_are_kept(compiled: Library, format: Format) -> None:
    weight = torch.zeros(20, 64)
    weight[torch.arange(20), torch.arange(20) * 3] = torch.logspace(-20, 20, 20) * torch.tensor([1.0, -1.0]).repeat(10)
    same = torch.full((2, 64), -3.7)
    for known in (weight, same):
        found, size = packed(compiled, known, format), known.abs().amax(1, keepdim=True)
        torch.testing.assert_close(found / size, known / size, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("format", "bits"), [(Format.INT4, 4), (Format.INT5, 5)])
@pytest.mark.parametrize("has_minimum", [False, True])
def test_numbers_from_as_few_bits_lose_next_to_nothing(
    compiled: Library, format: Format, bits: int, *, has_minimum: bool
) -> None:
    random, half = torch.Generator().manual_seed(2), 2 ** (bits - 1)
    scale = 0.5 + torch.rand(40, 8, 1, generator=random)
    q = torch.randn(40, 8, 32, generator=random).mul(half / 3).round().clamp(-half, half - 1)
    q[:, :, 0] = -half  # as in Q4_0 and Q5_0; Q4_1 and Q5_1 use the whole range, and have a minimum
    if has_minimum:
        q[:, :, 1] = half - 1
        q += torch.rand(40, 8, 1, generator=random)
    weight = (scale * q).flatten(1)
    lost = (packed(compiled, weight, format) - weight).square().sum() / weight.square().sum()
    assert lost < (1e-4 if bits == 4 or has_minimum else 1e-3)
    assert compiled.suits_int4(array_of(weight)) == (bits == 4)
    preferred = compiled.pack(array_of(weight), Format.INT8, prefer_int4=True).format
    assert preferred is (Format.INT4 if bits == 4 else Format.INT8)


def test_other_numbers_are_not_taken_for_four_bits(compiled: Library) -> None:
    weight = torch.randn(40, 256, generator=torch.Generator().manual_seed(3))
    assert not compiled.suits_int4(array_of(weight))
    assert compiled.pack(array_of(weight), Format.INT5, prefer_int4=True).format is Format.INT5
    weight[3, 3] = float("nan")
    assert not compiled.suits_int4(array_of(weight))


@pytest.mark.parametrize("zeros", [15, 16, 40])
def test_rows_of_zeros_are_not_taken_for_four_bits(compiled: Library, zeros: int) -> None:
    weight = torch.randn(40, 256, generator=torch.Generator().manual_seed(3))
    weight[:zeros] = 0  # as the rows of tokens that no training has seen
    assert not compiled.suits_int4(array_of(weight))


@pytest.mark.parametrize(("format", "bits"), [(Format.INT8, 8.5), (Format.INT4, 4.5 + 32 / 256), (Format.INT5, 5.5 + 32 / 256)])
def test_bits_of_a_weight(compiled: Library, format: Format, bits: float) -> None:
    assert compiled.pack(array_of(draw(32, 256, 1)), format).nbytes * 8 / (32 * 256) == bits
