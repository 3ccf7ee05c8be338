"""Frozen linear modules over one input, each with or without a LoRA, as one operation.

PEFT computes every LoRA by itself, in its own precision, and autograd sums what flows back. Here everything is added up inside
the products. The adapter's weights stay in their own precision (fp32); they are rounded to the input's for the products, as
autocast does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import layer as peft_layer
from torch import Tensor, nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from smolorad.engine.train.fast.matmul import Sum, compute, transposed


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
    return type(module) in (nn.Linear, Conv1D, FalconLinear) and not any(p.requires_grad for p in module.parameters())


def project(x: Tensor, projections: Sequence[Projection]) -> tuple[Tensor, ...]:
    """What each projection makes of `x` (..., in): (..., out)."""
    flat = x.reshape(-1, x.shape[-1])
    adapters = [tensor for one in projections for tensor in (one.first, one.second)]
    outs: tuple[Tensor, ...] = _Project.apply(flat, projections, *adapters)
    return tuple(out.view(*x.shape[:-1], out.shape[-1]) for out in outs)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, projections: Sequence[Projection], *adapters: Tensor | None) -> tuple[Tensor, ...]:
        terms = [[(x, one.matrix)] for one in projections]
        ctx.projections = projections
        loras = _Loras.of(projections, x.dtype)
        if loras.places:
            kept = loras.drop(x)
            low = compute([Sum([(seen, first.t())]) for seen, first in zip(loras.inputs(x, kept), loras.first, strict=True)])
            ctx.save_for_backward(x, *low, *kept)
            for place, short, second in zip(loras.places, low, loras.second, strict=True):
                terms[place].append((short, second.t()))
        return tuple(compute([Sum(some, one.bias) for some, one in zip(terms, projections, strict=True)]))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        back = [(grad, one.matrix.t()) for grad, one in zip(grads, ctx.projections, strict=True)]
        wanted = [Sum(back)] if ctx.needs_input_grad[0] else []
        found: list[Tensor | None] = [None] * (2 * len(ctx.projections))
        if not (saved := ctx.saved_tensors):  # asked for once: a checkpointed layer computes it then
            return compute(wanted)[0] if wanted else None, None, *found
        x, *saved = saved
        loras = _Loras.of(ctx.projections, x.dtype)
        low, kept = saved[: len(loras.places)], saved[len(loras.places) :]
        adapted = [grads[place] for place in loras.places]
        d_low = compute([Sum([(grad, second)]) for grad, second in zip(adapted, loras.second, strict=True)])
        if not kept:
            back += [(d, first) for d, first in zip(d_low, loras.first, strict=True)]
        for d, short, grad, seen in zip(d_low, low, adapted, loras.inputs(x, kept), strict=True):
            wanted += [Sum([(transposed(d), seen)], exact=True), Sum([(transposed(short), grad)], exact=True)]
        made = compute(wanted)
        dx = made.pop(0) if ctx.needs_input_grad[0] else None
        for place, d_first, d_second, by in zip(loras.places, made[::2], made[1::2], loras.scale, strict=True):
            found[2 * place : 2 * place + 2] = d_first, d_second.t().mul(by).contiguous()
        if dx is not None:
            for d, first, mask in zip(d_low, loras.first, kept, strict=False):
                dx.addcmul_(d @ first, mask)
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

    def inputs(self, x: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
        """What each LoRA sees of `x`: (rows, in)."""
        return [x * mask for mask in kept] or [x] * len(self.places)


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
