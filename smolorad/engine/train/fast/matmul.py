"""Sums of products; our own library, where it is available, computes each at once and rounds it once."""

from __future__ import annotations

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
