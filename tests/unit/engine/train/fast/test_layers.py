"""Each part computes what the one of transformers computes, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from smolorad.engine.train.fast.layers import apply_rope, rms_norm, swiglu


def same(got: Callable[..., Tensor], expected: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    torch.manual_seed(1)
    left, right = got(*inputs), expected(*inputs)
    assert torch.allclose(left, right, atol=1e-5)
    weights = torch.randn_like(left)
    gradients = (torch.autograd.grad((out * weights).sum(), inputs) for out in (left, right))
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_rms_norm() -> None:
    norm = LlamaRMSNorm(24, eps=1e-3)
    norm.weight.data = torch.linspace(-1, 2, 24)
    norm.requires_grad_(False)
    same(lambda x: rms_norm(x, norm.weight, 1e-3), norm, [torch.randn(1, 7, 24, requires_grad=True)])


def test_swiglu() -> None:
    inputs = [torch.randn(5, 12, requires_grad=True) for _ in range(2)]
    same(swiglu, lambda gate, up: functional.silu(gate) * up, inputs)


def test_rotary_positions() -> None:
    angles = torch.randn(9, 4).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    def theirs(x: Tensor) -> Tensor:
        flat = x.transpose(0, 1)[None]
        return apply_rotary_pos_emb(flat, flat, cos[None], sin[None])[0][0].transpose(0, 1)

    same(lambda x: apply_rope(x, cos[:, None, :4], sin[:, None, :4]), theirs, [torch.randn(9, 3, 8, requires_grad=True)])
