"""Compares a device's kernels with the CPU's: attention, and matrix products as `splitting_long_products` has them computed.

Attention kernels have been silently wrong on MPS: half precision that sees future tokens (pytorch#195910), keys read beyond
their end at lengths that are no multiple of 32 (pytorch#169222) or above 1024 with grouped heads (pytorch#174861). So attention
is compared at such lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from smolorad.domain import Device, Dtype
from smolorad.engine.device_check.difference import TOLERANCE, difference
from smolorad.engine.runtime.short_matmul import AFFECTED_DEVICES, MAX_INNER_LENGTH, splitting_long_products
from smolorad.engine.train.fast.loss import summed_cross_entropy

LENGTHS = (5, 31, 33, 64, 130, 1100)
HEADS, KEY_HEADS, HEAD_DIM = 9, 3, 64
INNER_LENGTH = 2 * MAX_INNER_LENGTH + 1  # of a product, as a vocabulary has it; an odd one, of which three parts are made
ROWS, COLUMNS, BATCH = 24, 40, 2

Attention = Callable[..., Tensor]


def attention_fault(device: Device, dtype: Dtype, attend: Attention = F.scaled_dot_product_attention) -> str:
    """How attention on the device differs from the CPU's in fp32; empty if it does not."""
    for length in LENGTHS:
        query, key, value = _tensors(length)
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        for kind, asking, options in (
            ("causal", query, {"is_causal": True}),
            ("masked", query, {"attn_mask": mask}),
            # A token's step has kernels of its own.
            ("one token's", query[:, :, -1:], {}),
        ):
            expected = F.scaled_dot_product_attention(asking, key, value, enable_gqa=True, **options)
            moved = {name: option.to(device) if isinstance(option, Tensor) else option for name, option in options.items()}
            inputs = [t.to(device, getattr(torch, dtype)) for t in (asking, key, value)]
            got = attend(*inputs, enable_gqa=True, **moved).to("cpu", torch.float32)
            apart = difference(got, expected)
            if not apart <= TOLERANCE[dtype]:
                return f"{kind} attention over {length} tokens differs from the CPU's by {apart:.2g} of its largest value"
    return ""


def product_fault(device: Device, dtype: Dtype) -> str:
    """How products as a training asks for them differ on the device from the CPU's in fp64; empty if they do not."""
    left, right = _random(BATCH, ROWS, INNER_LENGTH), _random(BATCH, INNER_LENGTH, COLUMNS)
    to = {"device": device, "dtype": getattr(torch, dtype)}
    with splitting_long_products(device):
        for kind, multiply, factors in (
            ("a matrix product", torch.mm, (left[0], right[0])),
            ("a batch of matrix products", torch.bmm, (left, right)),
            ("a linear layer", F.linear, (left, right[0].t())),
            ("the gradient of a linear layer's input", _input_gradient, (left, right[0])),
            ("the gradient of a linear layer's weight", _weight_gradient, (left[0].t(), right[0])),
            ("the gradient of the output head", _head_gradient, (right[1, :ROWS], right[0])),
        ):
            expected = multiply(*(factor.double() for factor in factors))
            apart = difference(multiply(*(factor.to(**to) for factor in factors)).cpu().double(), expected)
            if not apart <= TOLERANCE[dtype]:
                over = f"over {INNER_LENGTH:,} numbers differs from the CPU's by {apart:.2g} of its largest value"
                return f"{kind} {over}"
    return ""


def product_notes(device: Device, dtype: Dtype) -> tuple[str, ...]:
    """What is to be said of long products that are asked of the device in one: that it computes them wrongly, if it does."""
    if device not in AFFECTED_DEVICES:
        return ()
    left, right = _random(ROWS, INNER_LENGTH), _random(INNER_LENGTH, COLUMNS)
    got = torch.mm(*(factor.to(device, getattr(torch, dtype)) for factor in (left, right)))
    if difference(got.cpu().double(), left.double() @ right.double()) <= TOLERANCE[dtype]:
        return ()
    note = "{} computes matrix products over more than {:,} numbers wrongly here; they are computed in parts."
    return (note.format(device, MAX_INNER_LENGTH),)


def _input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    x = torch.zeros(*grad.shape[:-1], weight.shape[1], device=grad.device, dtype=grad.dtype, requires_grad=True)
    return torch.autograd.grad(F.linear(x, weight), x, grad)[0]


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    weight = torch.zeros(grad.shape[1], x.shape[1], device=x.device, dtype=x.dtype, requires_grad=True)
    return torch.autograd.grad(F.linear(x, weight), weight, grad)[0]


def _head_gradient(hidden: Tensor, weight: Tensor) -> Tensor:
    hidden = hidden.clone().requires_grad_()
    targets = torch.arange(len(hidden), device=hidden.device) * (len(weight) // len(hidden))
    return torch.autograd.grad(summed_cross_entropy(hidden, weight, targets), hidden)[0]


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[-1]))


def _tensors(length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    query = torch.randn(1, HEADS, length, HEAD_DIM, generator=generator)
    key = torch.randn(1, KEY_HEADS, length, HEAD_DIM, generator=generator)
    return query, key, torch.randn(1, KEY_HEADS, length, HEAD_DIM, generator=generator)
