"""Each part computes what the one of transformers computes, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.phi3 import modeling_phi3

from smolorad.engine.train.fast.layers import apply_rope, geglu, rms_norm, swiglu
from smolorad.engine.train.fast.patch import norm_forward


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


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm, Olmo2RMSNorm, CohereLayerNorm, modeling_phi3.Phi3RMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norms_by_kind(kind: type, dtype: torch.dtype) -> None:
    norm = kind(24, eps=1e-3)
    norm.weight.data = torch.linspace(-1, 2, 24)
    norm.to(dtype)
    assert norm_forward(norm) is None  # trained
    norm.requires_grad_(False)
    forward = norm_forward(norm)
    assert forward is not None
    x = torch.randn(7, 24).to(dtype).requires_grad_()
    if dtype is torch.float32:
        same(lambda x: forward(norm, x), norm, [x])
        return
    assert (forward(norm, x) - norm(x)).abs().max() <= 2**-7 * norm(x).abs().max()  # the last bit of the largest
    left, right = (torch.autograd.grad(out.float().square().sum(), x)[0] for out in (forward(norm, x), norm(x)))
    assert (left - right).abs().max() <= 0.02 * right.abs().max()


def test_a_norm_of_an_unknown_kind_stays() -> None:
    class Other(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) * 2

    assert norm_forward(Other(24).requires_grad_(False)) is None


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_geglu(approximate: str) -> None:
    inputs = [torch.randn(5, 12, requires_grad=True) for _ in range(2)]
    same(lambda g, u: geglu(g, u, approximate), lambda g, u: functional.gelu(g, approximate=approximate) * u, inputs)


def test_rotary_positions_of_a_part_of_the_width() -> None:
    angles = torch.randn(9, 3).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    def theirs(x: Tensor) -> Tensor:
        flat = x.transpose(0, 1)[None]
        return modeling_phi3.apply_rotary_pos_emb(flat, flat, cos[None], sin[None])[0][0].transpose(0, 1)

    same(lambda x: apply_rope(x, cos[:, None, :3], sin[:, None, :3]), theirs, [torch.randn(9, 3, 8, requires_grad=True)])


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
