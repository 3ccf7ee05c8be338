"""A stand-in for the GPU of an M1: the CPU's kernels, and Metal's two for linear layers, wrong where a product is long."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

_FIRST_FACTOR = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "addmv": 1, "addbmm": 1}
_VARIANTS = ("", ".out", "_")


@dataclass
class StandIn:
    """What its kernels were asked for."""

    limit: int  # products with an inner length of so many numbers, or more, are wrong
    broken: str = ""  # a kernel that is always wrong
    spoil: float = 1.2  # what such a kernel multiplies its results by
    asked: list[tuple[str, int]] = field(default_factory=list)  # kernel, inner length

    @property
    def long(self) -> list[tuple[str, int]]:
        """The products that it computes wrongly."""
        return [one for one in self.asked if one[1] >= self.limit]

    def ask(self, name: str, inner: int, given: torch.dtype, made: Tensor) -> Tensor:
        """Notes a product of numbers in the format `given`, and spoils its result; not in fp64, which is the CPU's alone."""
        if given is torch.float64:
            return made
        self.asked.append((name, inner))
        return made.mul_(self.spoil if name == self.broken else -3.0 if inner >= self.limit else 1.0)


@contextmanager
def stand_in(limit: int = 32_767, broken: str = "") -> Iterator[StandIn]:
    """Inside, the CPU is such a device. Its linear layers are kernels of their own, as Metal's are."""
    device, library = StandIn(limit, broken), Library("aten", "IMPL")
    there = set(torch._C._dispatch_get_registrations_for_dispatch_key("CPU"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, place in _FIRST_FACTOR.items():
            for full in (name + variant for variant in _VARIANTS):
                if f"aten::{full}" in there:
                    kernel = torch.library.get_kernel(f"aten::{full}", "CPU")
                    library.impl(full, _noting(device, name, place, kernel), "CPU", with_keyset=True, allow_override=True)
        library.impl("linear", _linear(device), "CPU")
        library.impl("linear_backward", _linear_backward(device), "CPU")
        library.impl("_scaled_dot_product_attention_math_for_mps", _attention(device), "CPU")
    try:
        yield device
    finally:
        library._destroy()


def _noting(device: StandIn, name: str, place: int, kernel: Any) -> Any:
    def noted(keys: Any, *args: Any, **more: Any) -> Tensor:
        return device.ask(name, args[place].shape[-1], args[place].dtype, kernel.call_boxed(keys, *args, **more))

    return noted


def _linear(device: StandIn) -> Any:
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.detach().reshape(-1, x.shape[-1]).double()
        out = device.ask(
            "linear", x.shape[-1], x.dtype, _plain(rows, weight.detach().double().t()).view(*x.shape[:-1], len(weight))
        )
        return (out if bias is None else out + bias).to(x.dtype)

    return linear


def _linear_backward(device: StandIn) -> Any:
    def backward(x: Tensor, grad: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor | None, ...]:
        # Not by `mm`, which notes for itself.
        rows, seen = grad.reshape(-1, weight.shape[0]).double(), x.reshape(-1, weight.shape[1]).double()
        d_x = device.ask("linear_backward", weight.shape[0], x.dtype, _plain(rows, weight.double())) if wanted[0] else None
        d_weight = device.ask("linear_backward", len(rows), x.dtype, _plain(rows.t(), seen)) if wanted[1] else None
        made = (d_x if d_x is None else d_x.view(x.shape), d_weight, rows.sum(0) if wanted[2] else None)
        return tuple(one if one is None else one.to(x.dtype) for one in made)

    return backward


def _attention(device: StandIn) -> Any:
    def attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **more: Any) -> tuple[Tensor, Tensor]:
        shares = torch.softmax((query @ key.mT) * query.shape[-1] ** -0.5, -1)
        return device.ask("attention", key.shape[-2], key.dtype, torch.from_numpy(shares.numpy() @ value.numpy())), shares

    return attention


def _plain(left: Tensor, right: Tensor) -> Tensor:
    """A product without a kernel for products."""
    return torch.from_numpy(left.numpy() @ right.numpy())
