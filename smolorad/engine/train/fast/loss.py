"""Cross entropy of a frozen output head, without the logits of a whole batch in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smolorad.engine.runtime.short_matmul import MAX_INNER_LENGTH
from smolorad.engine.train.fast.kernels import Kernels, kernels
from smolorad.engine.train.fast.matmul import Sum, compute, product_dtype

# Rows whose logits are in memory at a time: enough for a fast product, few enough that they stay in the cache.
_ROWS = 192
# Our own library has them once, in its own number format.
_NATIVE_ROWS = {torch.float32: 192, torch.bfloat16: 384}
# Between two rows a page and a line: what is a power of two apart has one place in a cache, and its pages have one in the
# processor's table, where they drive each other out.
_APART_BYTES = 4096 + 64
# A block of logits in fp32 that stays in the cache between its two products.
_TILE_ROWS, _TILE_TOKENS = 512, 2048


@dataclass(frozen=True, slots=True)
class Head:
    """A frozen output head: softcap * tanh(scale * (hidden @ weight.t() + bias) / softcap), or without the soft cap."""

    weight: Tensor  # (vocabulary, width)
    bias: Tensor | None = None  # (vocabulary,)
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """That of a causal model, by the names that configs of transformers have for its parts."""
        linear, config = model.get_output_embeddings(), model.config.get_text_config()
        names = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
        name, scale = next(((n, v) for n in names if (v := getattr(config, n, None)) is not None), ("", 1.0))
        if name == "logits_scaling" and config.model_type != "hyperclovax":
            scale = 1.0 / scale
        return cls(linear.weight, linear.bias, float(scale), getattr(config, "final_logit_softcapping", None))

    def logits(self, hidden: Tensor) -> Tensor:
        """Of `hidden` (rows, width): (rows, vocabulary)."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias) * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def summed_cross_entropy(
    hidden: Tensor, head: Tensor | Head, targets: Tensor, worked: Callable[[float], None] = lambda flop: None
) -> Tensor:
    """Sum over rows of the negative log-likelihood, natural logarithm, in fp32.

    `hidden` (rows, width) and the head, or its weight alone (vocabulary, width), have one dtype; `targets` (rows,). The
    gradient of `hidden` is made with the loss, while a block's logits are there; the head gets none. `worked` gets the
    floating-point operations of each block, after it.
    """
    head = head if isinstance(head, Head) else Head(head)
    total: Tensor = _SummedCrossEntropy.apply(hidden, head, targets, worked)
    return total


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, targets: Tensor, worked: Callable[[float], None]) -> Tensor:
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        # The scale is part of the rows, where there is less to multiply.
        rows = hidden.detach() if head.scale == 1.0 else hidden.detach() * head.scale
        native = kernels(hidden, head.weight)
        if native is None and in_tiles(hidden):
            total = _by_tiles(rows, head, targets, gradient, worked)
        else:
            total = _by_rows(rows, head, targets, gradient, native, worked)
        if gradient is not None:
            ctx.save_for_backward(gradient if head.scale == 1.0 else gradient.mul_(head.scale))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None


def in_tiles(hidden: Tensor) -> bool:
    """Whether torch is to compute tile by tile: where products are in fp32, and each begins as soon as it is asked for."""
    return hidden.device.type == "cpu" and product_dtype(hidden) is torch.float32


def _by_rows(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    gradient: Tensor | None,
    native: Kernels | None,
    worked: Callable[[float], None],
) -> Tensor:
    """All logits of some rows at a time."""
    total, weight = torch.zeros((), device=hidden.device), head.weight
    bias = None if head.bias is None else head.bias * head.scale
    most = _ROWS if native is None else _NATIVE_ROWS[hidden.dtype]
    size = -(-len(hidden) // max(-(-len(hidden) // most), 1))  # all blocks of the same size, but for the last
    apart = 0 if native is None else _APART_BYTES // hidden.element_size()
    logits = torch.empty(size, len(weight) + apart, dtype=hidden.dtype, device=hidden.device)[:, : len(weight)]
    exact = torch.empty(size if native is None else 0, len(weight), device=hidden.device)
    for begin in range(0, len(hidden), max(size, 1)):
        rows, target = hidden[begin : begin + size], targets[begin : begin + size]
        flop = 2.0 * rows.numel() * len(weight)
        out = logits[: len(rows)]
        compute([Sum([(rows, weight.t())], bias)], [out])
        worked(flop)
        bent = None
        if head.softcap is not None:
            bent = out.div_(head.softcap).tanh_().clone()
            out.mul_(head.softcap)
        if native is None:
            total += _losses(out, target, exact[: len(rows)]).sum()
        else:
            total += native.loss(out, target, back=gradient is not None).sum()
        if gradient is not None:
            if bent is not None:
                out.copy_(torch.ops.aten.tanh_backward(out, bent))
            compute([_back(out, weight, whole=native is not None)], [gradient[begin : begin + size]])
            worked(flop)
    return total


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


def _by_tiles(hidden: Tensor, head: Head, targets: Tensor, gradient: Tensor | None, worked: Callable[[float], None]) -> Tensor:
    """Some tokens' logits of some rows at a time, which are never in memory together: as attention reads its keys.

    The sums over the tokens before are scaled anew for each tile, by how the norm of the probabilities has grown.
    """
    total = torch.zeros(())
    size = -(-len(hidden) // max(-(-len(hidden) // _TILE_ROWS), 1))
    for begin in range(0, len(hidden), max(size, 1)):
        rows, target = hidden[begin : begin + size].float(), targets[begin : begin + size]
        norm = rows.new_full((len(rows), 1), -torch.inf)  # the logarithm of the sum over the tokens so far
        back = None if gradient is None else torch.zeros_like(rows)
        for first in range(0, len(head.weight), _TILE_TOKENS):
            tile = slice(first, first + _TILE_TOKENS)
            norm = _add_tile(rows, head, tile, norm, back)
            worked((2.0 if back is None else 4.0) * rows.numel() * len(head.weight[tile]))
        right, slope = _right(rows, head, target)
        total += (norm - right).sum()
        if gradient is not None and back is not None:
            back.addcmul_(head.weight[target].float(), slope, value=-1.0)
            gradient[begin : begin + size] = back
    return total


def _add_tile(rows: Tensor, head: Head, tile: slice, norm: Tensor, back: Tensor | None) -> Tensor:
    """The norm with a tile's tokens; `back`, the gradient without the targets' own part, gets theirs."""
    weight = head.weight[tile].float()
    bias = None if head.bias is None else head.bias[tile].float() * head.scale
    logits = torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
    bent = None
    if head.softcap is not None:
        bent = logits.div_(head.softcap).tanh_()
        logits = bent * head.softcap
    largest = logits.amax(-1, keepdim=True)
    p = torch._softmax(logits, -1, False, out=logits)
    own = largest - p.amax(-1, keepdim=True).log()
    grown = torch.logaddexp(norm, own)
    if back is not None:
        if bent is not None:
            p = torch.ops.aten.tanh_backward(p, bent)
        back.mul_((norm - grown).exp_()).addcmul_(torch.mm(p, weight), (own - grown).exp_())
    return grown


def _right(rows: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The targets' own logits, and by how much they follow `rows @ weight.t()`: (rows, 1) each."""
    own = torch.linalg.vecdot(rows, head.weight[targets].float())[:, None]
    if head.bias is not None:
        own += head.bias[targets].float()[:, None] * head.scale
    if head.softcap is None:
        return own, torch.ones_like(own)
    bent = own.div_(head.softcap).tanh_()
    return bent * head.softcap, 1.0 - bent.square()
