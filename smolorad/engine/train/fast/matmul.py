"""Sums of products; our own library, where it is available, computes each at once and rounds it once."""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smolorad.engine.train.fast.kernels import Term, kernels


@dataclass(frozen=True, slots=True)
class Sum:
    """x1 @ w1 + x2 @ w2 + ... + added."""

    terms: Sequence[Term]  # (rows, depth) and (depth, columns), of one dtype
    added: Tensor | None = None  # (rows, columns) or (columns,)
    exact: bool = False  # comes out in fp32, else as the factors are

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        x, w = self.terms[0]
        return x.shape[0], w.shape[1]

    def by_torch(self, out: Tensor | None = None) -> Tensor:
        """Computed term by term."""
        given = self.terms[0][0].dtype
        if (dtype := product_dtype(self.terms[0][0])) != given:
            widened = [(x.to(dtype), w.to(dtype)) for x, w in self.terms]
            made = Sum(widened, None if self.added is None else self.added.to(dtype)).by_torch()
            return out.copy_(made) if out is not None else made if self.exact else made.to(given)
        (x, w), *others = self.terms
        out = torch.mm(x, w, out=out) if self.added is None else torch.addmm(self.added, x, w, out=out)
        for x, w in others:
            out.addmm_(x, w)
        return out.float() if self.exact else out


def compute(sums: Sequence[Sum], outs: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Each sum, (rows, columns); in `outs`, if they are given and none is exact."""
    native = kernels(*(factor for one in sums for term in one.terms for factor in term))
    if native is None or not all(native.multiplies(one.terms, one.added) for one in sums):
        return [one.by_torch(None if outs is None else outs[place]) for place, one in enumerate(sums)]
    if outs is None:
        outs = [torch.empty(one.shape, dtype=torch.float32 if one.exact else native.dtype) for one in sums]
    native.products(outs, [one.terms for one in sums], [one.added for one in sums])
    return list(outs)


def transposed(x: Tensor) -> Tensor:
    """`x` (rows, columns) as the first factor of a product with something of as many rows: (columns, rows)."""
    return x.t().contiguous()


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which torch is to multiply what is in `x`'s: fp32 on processors without instructions for a shorter one.

    There torch multiplies a shorter one up to fifty times as slowly, number by number.
    """
    slow = x.device.type == "cpu" and x.dtype in _SUPPORTED and not _multiplies(x.dtype)
    return torch.float32 if slow else x.dtype


_SUPPORTED = {
    torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
}


@functools.lru_cache(maxsize=len(_SUPPORTED))
def _multiplies(dtype: torch.dtype) -> bool:
    # Elsewhere than on x86 torch has other ways, which these questions do not cover.
    return platform.machine().lower() not in ("x86_64", "amd64") or bool(_SUPPORTED[dtype]())
