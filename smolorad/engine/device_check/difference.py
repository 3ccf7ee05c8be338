"""How far two results may lie apart."""

from __future__ import annotations

from torch import Tensor

from smolorad.domain import Dtype

# The largest difference that rounding explains, as a share of the largest value; the faults that are looked for are far above.
TOLERANCE = {Dtype.FLOAT32: 1e-3, Dtype.BFLOAT16: 5e-2, Dtype.FLOAT16: 1e-2}


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value; NaN if there is one."""
    return float((got - expected).abs().max() / expected.abs().max())
