"""Cross entropy of a frozen output head, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Rows whose logits are held at a time: enough for a fast product, few enough that they stay near the processor.
_ROWS = 192


def summed_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, worked: Callable[[float], None] = lambda flop: None
) -> Tensor:
    """Sum over rows of the negative log-likelihood, natural logarithm, in fp32.

    `hidden` (rows, width) and `weight` (vocabulary, width) have one dtype; `targets` (rows,). The gradient of `hidden` is made
    with the loss, while a block's logits are there; `weight` gets none. `worked` is told after each block how much it was, in
    floating-point operations.
    """
    total: Tensor = _SummedCrossEntropy.apply(hidden, weight, targets, worked)
    return total


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, worked: Callable[[float], None]) -> Tensor:
        count, vocabulary = len(hidden), len(weight)
        total = torch.zeros((), device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        block = -(-count // max(-(-count // _ROWS), 1))  # all of the same size, but for the last
        logits = torch.empty(block, vocabulary, dtype=hidden.dtype, device=hidden.device)
        exact = torch.empty(block, vocabulary, device=hidden.device)
        for begin in range(0, count, max(block, 1)):
            rows, target = hidden[begin : begin + block], targets[begin : begin + block, None]
            out, p = logits[: len(rows)], exact[: len(rows)]
            torch.mm(rows, weight.t(), out=out)
            p.copy_(out)
            largest, right = out.amax(-1, keepdim=True).float(), p.gather(1, target)
            torch._softmax(p, -1, False, out=p)
            # The likeliest token's probability is one over the norm; the target's own may be too small for a number.
            total += (largest - p.amax(-1, keepdim=True).log() - right).sum()
            if gradient is not None:
                p.scatter_add_(1, target, torch.full_like(right, -1.0))
                torch.mm(out.copy_(p), weight, out=gradient[begin : begin + block])
            worked((2.0 if gradient is None else 4.0) * rows.numel() * vocabulary)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None
