"""What the tests of the fast way share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smolorad.engine.train.fast import kernels, matmul

Run = Callable[[], tuple[Tensor, ...]]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Both for which there may be a library."""
    dtype: torch.dtype = request.param
    return dtype


@pytest.fixture
def both_ways(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> Callable[[Run], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """What a computation in `dtype` gives by our own library, and again on other numbers of threads, and by torch."""
    if kernels._kernels(dtype) is None:
        pytest.skip("no library of our own for this processor")
    # What the library does not take goes to torch, in bf16 too: the sanitized build only emulates a processor with bf16.
    monkeypatch.setattr(matmul, "_multiplies", lambda dtype: True)

    def run(compute: Run) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        ours = compute()
        threads = torch.get_num_threads()
        for others in (1, 3):
            torch.set_num_threads(others)
            for one, again in zip(ours, compute(), strict=True):
                assert torch.equal(one, again)
        torch.set_num_threads(threads)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_kernels", lambda dtype: None)
            return ours, compute()

    return run


def near(ours: Tensor, theirs: Tensor, share: float = 0.01) -> bool:
    """Whether they differ by no more than a share of the largest number."""
    largest = theirs.float().abs().max().item() if len(theirs.flatten()) else 0.0
    return torch.allclose(ours.float(), theirs.float(), rtol=0.0, atol=share * largest + 1e-6)
