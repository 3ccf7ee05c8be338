"""Splits matrix products on Metal whose inner length is more than Metal computes correctly.

On M1 and M2 a product with an inner length of 32,767 or more reads past its operands, without an error (pytorch#177116,
#193487, #195163); torch 2.14 avoids that for two dimensions, not for batches (pytorch#195012). Every training makes such
products: the backward pass of the output head sums over the vocabulary, that of an adapter over the tokens of a batch.
transformers, TRL, PEFT, autograd and smolora call them in many ways, and each way ends in one of a few kernels of torch.
So a long product is split there: into parts of similar length, whose results are added.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from smolorad.domain import Device

MAX_INNER_LENGTH = 32_704  # the largest below 32,767 that keeps the parts aligned
_ALIGNED = 64  # numbers
_HALVES = (torch.float16, torch.bfloat16)
# Devices that compute long products wrongly, with torch's dispatch key of their kernels.
AFFECTED_DEVICES = MappingProxyType({Device.MPS: "MPS"})

Kernel = Callable[..., Any]


@contextmanager
def splitting_long_products(device: Device) -> Iterator[None]:
    """Splits long products of all threads inside the block, on a device that computes them wrongly."""
    library = split_long_products(device)
    try:
        yield
    finally:
        if library is not None:
            library._destroy()


def split_long_products(device: Device) -> Library | None:
    """The same for as long as the result lives; None for a device without the fault."""
    key = AFFECTED_DEVICES.get(device)
    if key is None:
        return None
    library, there = Library("aten", "IMPL"), set(torch._C._dispatch_get_registrations_for_dispatch_key(key))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")  # on purpose
        for name, (is_long, cut) in _KERNELS.items():
            if f"aten::{name}" in there:
                kernel = _guarded(torch.library.get_kernel(f"aten::{name}", key), is_long, cut)
                library.impl(name, kernel, key, with_keyset=True, allow_override=True)
    return library


def has_long_products(model: Any) -> bool:
    """Whether a model of transformers may compute long products in generation: whether its layers are that wide."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    outside = {id(parameter) for module in ends if module is not None for parameter in module.parameters()}
    return any(
        max(weight.shape) > MAX_INNER_LENGTH for weight in model.parameters() if weight.ndim > 1 and id(weight) not in outside
    )


def _guarded(kernel: Any, is_long: Callable[..., bool], cut: Kernel) -> Kernel:
    def guarded(keys: Any, *args: Any, **more: Any) -> Any:
        return cut(*args, **more) if is_long(*args) else kernel.call_boxed(keys, *args, **more)

    return guarded


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A product of matrices or batches, in parts; half precision is summed in fp32, so that it is rounded once."""
    multiply = torch.mm if left.ndim == 2 else torch.bmm
    inner = left.shape[-1]
    parts = -(-inner // MAX_INNER_LENGTH)
    size = -(-inner // (parts * _ALIGNED)) * _ALIGNED
    total: Tensor | None = None
    for begin in range(0, inner, size):
        part = multiply(left[..., begin : begin + size], right[..., begin : begin + size, :])
        part = part.float() if part.dtype in _HALVES else part
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _matrices(left: Tensor, right: Tensor) -> Tensor:
    return _product(left, right).to(left.dtype)


def _with_sum(product: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    """`beta` times the added tensor plus `alpha` times a product; a `beta` of 0 ignores even numbers that are not finite."""

    def add(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        total = product(left, right).mul_(alpha)
        return (total if beta == 0 else total.add(added, alpha=beta)).to(left.dtype)

    return add


def _into_out(cut: Kernel) -> Kernel:
    def write(*args: Any, out: Tensor, **more: Any) -> Tensor:
        made = cut(*args, **more)
        return (out if out.shape == made.shape else out.resize_(made.shape)).copy_(made)

    return write


def _into_first(cut: Kernel) -> Kernel:
    def write(first: Tensor, *args: Any, **more: Any) -> Tensor:
        return first.copy_(cut(first, *args, **more))

    return write


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = torch.matmul(x, weight.t())
    return out if bias is None else out + bias


def _linear_backward(
    x: Tensor, grad: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    rows = grad.reshape(-1, weight.shape[0])
    d_x = torch.mm(rows, weight).view(x.shape) if wanted[0] else None
    d_weight = torch.mm(rows.t(), x.reshape(-1, weight.shape[1])) if wanted[1] else None
    return d_x, d_weight, rows.sum(0) if wanted[2] else None


def _is_long_backward(x: Tensor, grad: Tensor, weight: Tensor, *_: Any) -> bool:
    return weight.shape[0] > MAX_INNER_LENGTH or grad.numel() > MAX_INNER_LENGTH * weight.shape[0]


_add_matrices = _with_sum(_product)
_add_vector = _with_sum(lambda matrix, vector: _product(matrix, vector[:, None]).squeeze(1))
_add_batch_up = _with_sum(lambda left, right: _product(left, right).sum(0))
_SUMS = {"addmm": _add_matrices, "baddbmm": _add_matrices, "addmv": _add_vector, "addbmm": _add_batch_up}


def _kernels() -> Iterator[tuple[str, tuple[Callable[..., bool], Kernel]]]:
    """Each of torch's kernels that multiplies matrices on Metal: how to recognize a long product, and what to do instead.

    The others (`matmul`, `einsum`, `mv`) call these.
    """
    for name in ("mm", "bmm"):
        yield name, (lambda left, *_: left.shape[-1] > MAX_INNER_LENGTH, _matrices)
        yield f"{name}.out", (lambda left, *_: left.shape[-1] > MAX_INNER_LENGTH, _into_out(_matrices))
    for name, cut in _SUMS.items():
        for full, written in ((name, cut), (f"{name}.out", _into_out(cut)), (f"{name}_", _into_first(cut))):
            yield full, (lambda added, left, *_: left.shape[-1] > MAX_INNER_LENGTH, written)
    yield "linear", (lambda x, *_: x.shape[-1] > MAX_INNER_LENGTH, _linear)
    yield "linear_backward", (_is_long_backward, _linear_backward)
    # Attention in one kernel, and torch's own with the same arguments, made of the products above.
    attention = torch.ops.aten._scaled_dot_product_attention_math
    yield "_scaled_dot_product_attention_math_for_mps", (lambda query, key, *_: key.shape[-2] > MAX_INNER_LENGTH, attention)


_KERNELS = MappingProxyType(dict(_kernels()))
