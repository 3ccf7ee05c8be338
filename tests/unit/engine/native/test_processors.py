"""The code for each kind of processor: packed products agree to the bit, prompts in panels agree with rows within rounding."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smolora.common.paths import cache_path
from smolorad.engine.native import build
from smolorad.engine.native.library import Format, Library, Matrix
from smolorad.engine.native.torch_arrays import array_of

PACKED = (Format.INT8, Format.INT4, Format.INT5)
# The most that fp32 sums of so few terms are off, as a share of the sum of the products' sizes. AVX-512 rounds vectors to bf16.
_ROUNDING = {Format.FP32: 2e-6, Format.BF16: 2e-2}


def instructions() -> set[str]:
    """What this x86 processor has; none on others."""
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        return set()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def built_without(*flags: str) -> Library:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_OWN_MACHINE", {"x86_64": (*build._OWN_MACHINE["x86_64"], *flags)})
        found = build.library(cache_path(), 2)
    assert found is not None, "these tests need a C compiler"
    return found


@pytest.fixture(scope="module")
def compiled() -> Library:
    found = build.library(cache_path(), 2)
    assert found is not None, "these tests need a C compiler"
    return found


@pytest.fixture(scope="module")
def avx2(compiled: Library) -> Library:
    if not {"avx2", "fma"} <= instructions():
        pytest.skip("this processor has no AVX2")
    return built_without("-mno-avx512f") if "avx512f" in instructions() else compiled


@pytest.fixture(scope="module")
def plain(avx2: Library) -> Library:
    """Without instructions of its own for integers, on a processor with AVX2."""
    return built_without("-mno-avx2")


@pytest.fixture(scope="module")
def tolerance(request: pytest.FixtureRequest) -> float:
    """Of packed products, as a share of the largest: 0. For a sanitizer gcc does not fuse plain code's products and sums."""
    return 1e-5 if request.config.pluginmanager.has_plugin("tests.sanitized") else 0


def draw(rows: int, cols: int, seed: int) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def matrix_of(compiled: Library, weight: Tensor, format: Format) -> Matrix:
    if format in PACKED:
        return compiled.pack(array_of(weight), format)
    return Matrix.of(array_of(weight if format is Format.FP32 else weight.bfloat16()))


def multiply(compiled: Library, x: Tensor, matrix: Matrix) -> Tensor:
    return torch.from_numpy(compiled.multiply(x.contiguous().numpy(), matrix))


@given(
    count=st.integers(1, 40),
    rows=st.integers(1, 100),
    groups=st.integers(1, 40),
    size=st.sampled_from([1e-38, 1e-30, 1.0, 1e15]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("format", PACKED)
@settings(max_examples=25)
def test_avx2_and_plain_code_give_the_same_bits(
    avx2: Library,
    plain: Library,
    tolerance: float,
    format: Format,
    count: int,
    rows: int,
    groups: int,
    size: float,
    seed: int,
) -> None:
    weight, x = draw(rows, 32 * groups, seed), draw(count, 32 * groups, seed + 1) * size
    x[0, ::5] = 0
    matrix = avx2.pack(array_of(weight), format)
    assert torch.equal(torch.from_numpy(matrix.values), torch.from_numpy(plain.pack(array_of(weight), format).values))
    known = multiply(plain, x, matrix)
    torch.testing.assert_close(multiply(avx2, x, matrix), known, rtol=0, atol=tolerance * float(known.abs().max()))


@pytest.mark.parametrize("format", PACKED)
def test_the_largest_integers_do_not_overflow(avx2: Library, plain: Library, tolerance: float, format: Format) -> None:
    signs = torch.tensor([1.0, -1.0])
    weight = torch.stack([torch.ones(64), -torch.ones(64), signs.repeat(32), torch.linspace(-1, 1, 64)]).repeat(5, 1)
    x = torch.cat([weight[:4], weight[:4] * 127.498 / 127])
    matrix = avx2.pack(array_of(weight), format)
    together, known = multiply(avx2, x, matrix), multiply(plain, x, matrix)
    torch.testing.assert_close(together, known, rtol=0, atol=tolerance * float(known.abs().max()))
    torch.testing.assert_close(together, x @ weight.T, rtol=0.02, atol=2)


@given(
    rows=st.integers(1, 70),
    cols=st.sampled_from([1, 3, 7, 8, 33, 250, 1023, 1024, 1030, 2048, 2053]),
    count=st.integers(48, 90),
)
@pytest.mark.parametrize("format", [Format.FP32, Format.BF16])
@settings(max_examples=30)
def test_a_prompt_in_panels_is_its_rows_within_rounding(
    compiled: Library, format: Format, rows: int, cols: int, count: int
) -> None:
    weight, x = draw(rows, cols, 1), draw(count, cols, 2)
    if format is Format.BF16:
        weight = weight.bfloat16().float()
    matrix = matrix_of(compiled, weight, format)
    together, alone = multiply(compiled, x, matrix), torch.cat([multiply(compiled, row[None], matrix) for row in x])
    size = x.abs() @ weight.abs().T
    known = (x.double() @ weight.double().T).float()
    for sums in (together, alone):
        assert bool(((sums - known).abs() <= size * _ROUNDING[format]).all())
    assert bool(((together - alone).abs() <= size * 2e-6).all())


@given(count=st.integers(1, 40), rows=st.integers(1, 100), cols=st.sampled_from([32, 96, 1056, 2080]))
@pytest.mark.parametrize("format", list(Format))
@settings(max_examples=15)
def test_company_changes_no_bit_of_any_size(compiled: Library, format: Format, count: int, rows: int, cols: int) -> None:
    count = min(count, (compiled.min_prefill_tokens(format) or 99) - 1)
    x, matrix = draw(count, cols, 2), matrix_of(compiled, draw(rows, cols, 1), format)
    assert torch.equal(multiply(compiled, x, matrix), torch.cat([multiply(compiled, row[None], matrix) for row in x]))


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 60])
def test_what_is_not_finite_stays_with_its_vector(compiled: Library, format: Format, bad: float, count: int) -> None:
    x = draw(count, 96, 2)
    x[-1, 37] = bad
    sums = multiply(compiled, x, matrix_of(compiled, draw(37, 96, 1), format))
    assert not torch.isfinite(sums[-1]).any()
    assert torch.isfinite(sums[:-1]).all()


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize("count", [1, 4, 60])
def test_what_is_not_finite_stays_with_its_row(compiled: Library, format: Format, count: int) -> None:
    weight = draw(37, 96, 1)
    weight[19, 50] = float("nan")
    sums = multiply(compiled, draw(count, 96, 2), matrix_of(compiled, weight, format))
    assert not torch.isfinite(sums[:, 19]).any()
    assert torch.isfinite(sums[:, :19]).all()
    assert torch.isfinite(sums[:, 20:]).all()


def test_prompts_in_exact_formats_are_multiplied_in_panels(avx2: Library) -> None:
    wanted = {format: avx2.min_prefill_tokens(format) for format in Format}
    emulated = {Format.FP32: 0, Format.BF16: 16, **dict.fromkeys(PACKED, 0)}  # AVX-512 in plain C, by scripts/sanitize.py
    assert wanted in ({Format.FP32: 48, Format.BF16: 48, **dict.fromkeys(PACKED, 0)}, emulated)
