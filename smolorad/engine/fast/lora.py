"""Frozen linear modules over one input, each with or without a LoRA, as one operation.

PEFT computes every LoRA by itself, in its own precision, and autograd sums what flows back. Here modules that share their input
share one product with all the LoRA's first matrices, and everything that flows back is added up inside the products. The
adapter's weights stay in their own precision (fp32); they are rounded to the input's for the products, as autocast does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import layer as peft_layer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class Projection:
    """One frozen linear module and its LoRA, if it has one."""

    matrix: Tensor  # (in, out)
    bias: Tensor | None  # (out,)
    first: Tensor | None = None  # LoRA's A, (r, in)
    second: Tensor | None = None  # LoRA's B, (out, r)
    scale: float = 1.0
    dropout: float = 0.0  # share of the LoRA's input

    @classmethod
    def of(cls, module: Any) -> Projection:
        """What a module is now, in its present mode; `fits` said that it is one."""
        if not isinstance(module, peft_layer.Linear):
            return cls(_matrix(module), module.bias)
        base = module.base_layer
        (name,) = module.active_adapters
        dropout = module.lora_dropout[name]
        share = dropout.p if module.training and isinstance(dropout, nn.Dropout) else 0.0
        first, second = module.lora_A[name].weight, module.lora_B[name].weight
        return cls(_matrix(base), base.bias, first, second, module.scaling[name], share)


def fits(module: Any) -> bool:
    """Whether a module is a frozen linear one, or PEFT's plain LoRA on one."""
    if type(module) is peft_layer.Linear:
        names = module.active_adapters
        plain = len(names) == 1 and names[0] in module.lora_A and not module.lora_variant and not module.merged
        return plain and module.lora_B[names[0]].bias is None and fits(module.base_layer)
    return type(module) in (nn.Linear, Conv1D) and not any(p.requires_grad for p in module.parameters())


def project(x: Tensor, projections: Sequence[Projection]) -> tuple[Tensor, ...]:
    """What each projection makes of `x` (..., in): (..., out)."""
    flat = x.reshape(-1, x.shape[-1])
    adapters = [tensor for one in projections for tensor in (one.first, one.second)]
    outs: tuple[Tensor, ...] = _Project.apply(flat, projections, *adapters)
    return tuple(out.view(*x.shape[:-1], out.shape[-1]) for out in outs)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, projections: Sequence[Projection], *adapters: Tensor | None) -> tuple[Tensor, ...]:
        outs = [x @ one.matrix if one.bias is None else torch.addmm(one.bias, x, one.matrix) for one in projections]
        ctx.projections = projections
        loras = _Loras.of(projections, x.dtype)
        if loras.places:
            kept = loras.drop(x)
            low = loras.down(x, kept)
            ctx.save_for_backward(x, *low, *kept)
            for place, short, second in zip(loras.places, low, loras.second, strict=True):
                outs[place].addmm_(short, second.t())
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        dx: Tensor | None = None
        if ctx.needs_input_grad[0]:
            dx = grads[0] @ ctx.projections[0].matrix.t()
            for one, grad in zip(ctx.projections[1:], grads[1:], strict=True):
                dx.addmm_(grad, one.matrix.t())
        found: list[Tensor | None] = [None] * (2 * len(ctx.projections))
        if saved := ctx.saved_tensors:  # asked for once: a checkpointed layer computes it then
            x, *saved = saved
            loras = _Loras.of(ctx.projections, x.dtype)
            low, kept = saved[: len(loras.places)], saved[len(loras.places) :]
            pairs = loras.backward(x, low, kept, [grads[place] for place in loras.places], dx)
            for place, pair in zip(loras.places, pairs, strict=True):
                found[2 * place : 2 * place + 2] = pair
        return dx, None, *found


@dataclass(frozen=True, slots=True)
class _Loras:
    """The LoRAs of one operation, rounded to its dtype."""

    places: list[int]  # among the projections
    first: list[Tensor]  # (r, in)
    second: list[Tensor]  # (out, r), scaled
    scale: list[float]
    dropout: list[float]

    @classmethod
    def of(cls, projections: Sequence[Projection], dtype: torch.dtype) -> _Loras:
        loras = cls([], [], [], [], [])
        for place, one in enumerate(projections):
            if one.first is not None and one.second is not None:
                # What dropout leaves is scaled up here, where there is less to multiply.
                scale = one.scale / (1.0 - one.dropout)
                loras.places.append(place)
                loras.first.append(one.first.to(dtype))
                loras.second.append((one.second * scale).to(dtype))
                loras.scale.append(scale)
                loras.dropout.append(one.dropout)
        return loras

    def drop(self, x: Tensor) -> list[Tensor]:
        """For each LoRA, 1 for every value of its input that dropout leaves, else 0: (rows, in); empty without dropout."""
        return [_kept(x, share) for share in self.dropout] if any(self.dropout) else []

    def down(self, x: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
        """For each LoRA, its input times its first matrix: (rows, r)."""
        if kept:
            return [(x * mask) @ first.t() for mask, first in zip(kept, self.first, strict=True)]
        return list((x @ torch.cat(self.first).t()).split([len(first) for first in self.first], 1))

    def backward(
        self, x: Tensor, low: Sequence[Tensor], kept: Sequence[Tensor], grads: Sequence[Tensor], dx: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """The gradients of each pair of matrices, in fp32; adds to `dx` what flows back through them."""
        d_low = [grad @ second for grad, second in zip(grads, self.second, strict=True)]
        d_second = [(grad.t() @ short).float() * by for grad, short, by in zip(grads, low, self.scale, strict=True)]
        if kept:
            d_first = [d.t() @ (x * mask) for d, mask in zip(d_low, kept, strict=True)]
            if dx is not None:
                for d, first, mask in zip(d_low, self.first, kept, strict=True):
                    dx.add_((d @ first).mul_(mask))
        else:
            together = torch.cat(d_low, 1)
            d_first = list((together.t() @ x).split([len(first) for first in self.first]))
            if dx is not None:
                dx.addmm_(together, torch.cat(self.first))
        return [(first.float(), second) for first, second in zip(d_first, d_second, strict=True)]


def _kept(x: Tensor, share: float) -> Tensor:
    """`x`'s shape and dtype: 0 for that share of the places, on a CPU to the nearest 65,536th, 1 for the others."""
    if x.device.type != "cpu":
        return torch.empty_like(x).bernoulli_(1.0 - share)
    # A draw gives 16 bits to each of four places; drawn one by one they took an eighth of a step's time.
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    least = min(round(share * 2**16), 2**16 - 1) - 2**15
    return (drawn.view(torch.int16)[: x.numel()] >= least).to(x.dtype).view(x.shape)


def _matrix(module: Any) -> Tensor:
    weight: Tensor = module.weight
    return weight if isinstance(module, Conv1D) else weight.t()
