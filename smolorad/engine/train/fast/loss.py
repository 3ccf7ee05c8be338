"""Cross entropy of a frozen output head, without the logits of a whole batch in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from smolorad.engine.runtime.short_matmul import MAX_INNER_LENGTH
from smolorad.engine.train.fast.kernels import kernels
from smolorad.engine.train.fast.matmul import Sum, compute

# Rows whose logits are in memory at a time: enough for a fast product, few enough that they stay in the cache.
_ROWS = 192
# Our own library has them once, in its own number format.
_NATIVE_ROWS = {torch.float32: 192, torch.bfloat16: 384}
# Between two rows a page and a line: what is a power of two apart has one place in a cache, and its pages have one in the
# processor's table, where they drive each other out.
_APART_BYTES = 4096 + 64


def summed_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, worked: Callable[[float], None] = lambda flop: None
) -> Tensor:
    """Sum over rows of the negative log-likelihood, natural logarithm, in fp32.

    `hidden` (rows, width) and `weight` (vocabulary, width) have one dtype; `targets` (rows,). The gradient of `hidden` is made
    with the loss, while a block's logits are there; `weight` gets none. `worked` gets the floating-point operations of each
    block, after it.
    """
    total: Tensor = _SummedCrossEntropy.apply(hidden, weight, targets, worked)
    return total


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, worked: Callable[[float], None]) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        native = kernels(hidden, weight)
        most = _ROWS if native is None else _NATIVE_ROWS[hidden.dtype]
        size = -(-len(hidden) // max(-(-len(hidden) // most), 1))  # all blocks of the same size, but for the last
        apart = 0 if native is None else _APART_BYTES // hidden.element_size()
        logits = torch.empty(size, len(weight) + apart, dtype=hidden.dtype, device=hidden.device)[:, : len(weight)]
        exact = torch.empty(size if native is None else 0, len(weight), device=hidden.device)
        for begin in range(0, len(hidden), max(size, 1)):
            rows, target = hidden[begin : begin + size], targets[begin : begin + size]
            flop = 2.0 * rows.numel() * len(weight)
            out = logits[: len(rows)]
            compute([Sum([(rows, weight.t())])], [out])
            worked(flop)
            if native is None:
                total += _losses(out, target, exact[: len(rows)]).sum()
            else:
                total += native.loss(out, target, back=gradient is not None).sum()
            if gradient is not None:
                compute([_back(out, weight, whole=native is not None)], [gradient[begin : begin + size]])
                worked(flop)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None


def _back(logits: Tensor, weight: Tensor, *, whole: bool) -> Sum:
    """The gradient of the hidden states, as a sum of products over parts of the vocabulary.

    Torch's product over a whole one is wrong on M1 and M2 (pytorch#177116); `splitting_long_products` splits the others.
    """
    if whole:
        return Sum([(logits, weight)])
    parts = range(0, len(weight), MAX_INNER_LENGTH)
    return Sum([(logits[:, begin : begin + MAX_INNER_LENGTH], weight[begin : begin + MAX_INNER_LENGTH]) for begin in parts])


def _losses(logits: Tensor, targets: Tensor, p: Tensor) -> Tensor:
    """Of `logits` (rows, vocabulary), which become their gradient, and `targets` (rows,); `p` is room in fp32."""
    at = targets[:, None]
    p.copy_(logits)
    largest, right = logits.amax(-1, keepdim=True).float(), p.gather(1, at)
    torch._softmax(p, -1, False, out=p)
    # The likeliest token's probability is one over the norm; the target's own may be too small for a number.
    losses = largest - p.amax(-1, keepdim=True).log() - right
    logits.copy_(p.scatter_add_(1, at, torch.full_like(right, -1.0)))
    return losses
