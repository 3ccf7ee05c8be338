"""The arithmetic of a layer's parts, each with a backward pass that keeps little and makes few passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from smolorad.engine.train.fast.kernels import kernels


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, *, offset: float = 0.0, late: bool = False) -> Tensor:
    """`x` (..., width) over its root mean square, times a frozen `weight` (width,) plus `offset`.

    `late`: rounded to `x`'s dtype after the weight, not before it.
    """
    out: Tensor = _RmsNorm.apply(x, weight, epsilon, offset, late)
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, offset: float, late: bool) -> Tensor:
        if late:
            weight = weight.float() + offset if offset else weight.float()
        if (native := kernels(x, weight)) is not None:
            flat = x.reshape(-1, x.shape[-1]).contiguous()
            out, scale = native.norm(flat, weight, epsilon)
            ctx.save_for_backward(flat, weight, scale)
            return out.view(x.shape)
        exact = x.float()
        scale = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        normed: Tensor = exact * scale
        return normed.mul_(weight).to(x.dtype) if late else normed.to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None, None]:
        x, weight, scale = ctx.saved_tensors
        if (native := kernels(x, weight)) is not None:
            grad = grads[0].reshape(x.shape).contiguous()
            return native.norm_back(grad, x, weight, scale).view(grads[0].shape), None, None, None, None
        unit = x.float() * scale
        grad = (grads[0] * weight).float()
        along = torch.linalg.vecdot(grad, unit).div_(x.shape[-1]).neg_()
        return grad.addcmul_(unit, along[..., None]).mul_(scale).to(x.dtype), None, None, None, None


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up; keeps only the two."""
    out: Tensor = _Glu.apply(gate, up, None)
    return out


def geglu(gate: Tensor, up: Tensor, approximate: str) -> Tensor:
    """gelu(gate) * up, by the error function ("none") or by "tanh"; keeps only the two."""
    out: Tensor = _Glu.apply(gate, up, approximate)
    return out


class _Glu(torch.autograd.Function):
    """By SiLU, or by the GELU that is named; our own library computes SiLU."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: str | None) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        if gelu is None and (native := kernels(gate, up)) is not None:
            return native.gates(gate.contiguous(), up.contiguous())
        return _activated(gate, gelu).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        (gate, up), gelu = ctx.saved_tensors, ctx.gelu
        if gelu is None and (native := kernels(gate, up)) is not None:
            return *native.gates_back(grads[0].contiguous(), gate.contiguous(), up.contiguous()), None
        d_gate = grads[0] * up
        if gelu is None:
            d_gate = torch.ops.aten.silu_backward(d_gate, gate)
        else:
            d_gate = torch.ops.aten.gelu_backward(d_gate, gate, approximate=gelu)
        return d_gate, _activated(gate, gelu).mul_(grads[0]), None


def _activated(gate: Tensor, gelu: str | None) -> Tensor:
    return functional.silu(gate) if gelu is None else functional.gelu(gate, approximate=gelu)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE: `x` (tokens, heads, width), rotated by angles whose `cos` and `sin` are (tokens, 1, half the rotated width).

    What is beyond the rotated width stays.
    """
    out: Tensor = _Rope.apply(x, cos, sin)
    return out


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rope(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rope(grads[0], cos, sin, -1), None, None


def _rope(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    half = cos.shape[-1]
    x_0, x_1, rest = x.split((half, half, x.shape[-1] - 2 * half), -1)
    out_0, out_1, out_rest = out.split((half, half, x.shape[-1] - 2 * half), -1)
    out_rest.copy_(rest)
    torch.mul(x_0, cos, out=out_0).addcmul_(x_1, sin, value=-sign)
    torch.mul(x_1, cos, out=out_1).addcmul_(x_0, sin, value=sign)
    return out
