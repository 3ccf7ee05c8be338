"""Linear modules over one input compute what PEFT's and torch's own do, and get the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from smolorad.engine.train.fast import matmul
from smolorad.engine.train.fast.lora import Projection, _kept, fits, project


def modules(targets: list[str], *, dropout: float = 0.0, conv: bool = False, rank: int = 3, **more: Any) -> nn.ModuleDict:
    """Three frozen modules over one input; those named have LoRAs that are past their start."""
    torch.manual_seed(0)
    kind = (lambda i, o, bias: Conv1D(o, i)) if conv else (lambda i, o, bias: nn.Linear(i, o, bias=bias))
    made = nn.ModuleDict({"q": kind(12, 10, True), "k": kind(12, 4, False), "v": kind(12, 4, True)})
    made.requires_grad_(False)
    if targets:
        config = LoraConfig(r=rank, lora_alpha=5, lora_dropout=dropout, target_modules=targets, fan_in_fan_out=conv, **more)
        inject_adapter_in_model(config, made)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter)
    return made


def gradients(outs: tuple[Tensor, ...], wanted: list[Tensor]) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    return torch.autograd.grad(sum((out * torch.randn_like(out)).sum() for out in outs), wanted)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("targets", [["q", "v"], ["k"], ["q", "k", "v"], []], ids=str)
def test_as_peft(targets: list[str], conv: bool) -> None:
    made = modules(targets, conv=conv)
    x = torch.randn(1, 6, 12, requires_grad=True)
    wanted = [x, *(parameter for parameter in made.parameters() if parameter.requires_grad)]
    assert all(fits(module) for module in made.values())
    got, expected = project(x, [Projection.of(module) for module in made.values()]), tuple(m(x) for m in made.values())
    for left, right in zip(got, expected, strict=True):
        assert torch.allclose(left, right, atol=1e-5)
    for left, right in zip(gradients(got, wanted), gradients(expected, wanted), strict=True):
        assert torch.allclose(left, right, atol=1e-4)


def test_an_input_that_needs_no_gradient() -> None:
    made = modules(["q"])
    (out, *_) = project(torch.randn(6, 12), [Projection.of(module) for module in made.values()])
    out.sum().backward()
    assert made["q"].lora_B["default"].weight.grad is not None


def test_dropout_drops_for_each_lora_by_itself_and_keeps_the_mean() -> None:
    made = modules(["q", "v"], dropout=0.5)
    x = torch.randn(6, 12)
    plain = [module.base_layer(x) for module in (made["q"], made["v"])]
    made.eval()
    still = [module(x) - base for module, base in zip((made["q"], made["v"]), plain, strict=True)]
    made.train()
    draws = [project(x, [Projection.of(made["q"]), Projection.of(made["v"])]) for _ in range(3000)]
    for place in range(2):
        drawn = torch.stack([draw[place] for draw in draws]) - plain[place]
        assert drawn.std(0).min() > 0
        assert (drawn.mean(0) - still[place]).abs().max() < 0.1 * still[place].abs().max()


def test_gradients_under_dropout_are_those_of_what_was_kept() -> None:
    made = modules(["q", "v"], dropout=0.5)
    made.train()
    x = torch.randn(6, 12, requires_grad=True)
    weights = [made[name].lora_A["default"].weight for name in ("q", "v")]

    def out(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        q, v = project(x, [Projection.of(made["q"]), Projection.of(made["v"])])
        return q.sum() + (v * v).sum()

    for wanted in (x, *weights):
        (gradient,) = torch.autograd.grad(out(x), wanted)
        place, step = (1, 2), 1e-2
        with torch.no_grad():
            wanted[place] += step
            above = out(x)
            wanted[place] -= 2 * step
            below = out(x)
            wanted[place] += step
        assert gradient[place].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=2e-2, abs=2e-2)


def test_in_bf16_the_adapter_stays_fp32() -> None:
    made = modules(["q"])
    made.to(torch.bfloat16)
    adapter = [made["q"].lora_A["default"], made["q"].lora_B["default"]]
    for module in adapter:
        module.to(torch.float32)
    (out,) = project(torch.randn(6, 12, dtype=torch.bfloat16), [Projection.of(made["q"])])
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert {module.weight.grad.dtype for module in adapter} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_a_processor_that_does_not_multiply_the_dtype(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    made = modules(["q", "v"])
    x = torch.randn(6, 12).to(dtype)
    expected = [module(x.float()) for module in made.values()]
    wanted = [parameter for parameter in made.parameters() if parameter.requires_grad]
    theirs = gradients(tuple(expected), wanted)
    for name, parameter in made.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    monkeypatch.setattr(matmul, "_multiplies", lambda dtype: False)
    got = project(x, [Projection.of(module) for module in made.values()])
    assert {out.dtype for out in got} == {dtype}
    for left, right in zip(got, expected, strict=True):
        assert (left.float() - right).abs().max() < 0.03 * right.abs().max()
    mine = torch.autograd.grad(got, wanted, [torch.randn_like(out) for out in got])
    assert [one.dtype for one in mine] == [one.dtype for one in theirs]


def test_what_does_not_fit() -> None:
    assert not fits(nn.Linear(3, 3))  # trained itself
    assert not fits(nn.LayerNorm(3).requires_grad_(False))
    assert not fits(modules(["q"], use_dora=True)["q"])
    assert not fits(modules(["q"], lora_bias=True)["q"])
    merged = modules(["q"])
    merged["q"].merge()
    assert not fits(merged["q"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_dropout_drops_its_share_and_the_generator_decides_which(share: float) -> None:
    x = torch.ones(333, 577, dtype=torch.bfloat16)  # no multiple of four
    torch.manual_seed(5)
    one = _kept(x, share)
    torch.manual_seed(5)
    assert torch.equal(_kept(x, share), one)
    assert one.dtype is x.dtype
    assert set(one.unique().tolist()) <= {0.0, 1.0}
    assert abs(one.float().mean().item() - (1 - share)) < 3e-3
