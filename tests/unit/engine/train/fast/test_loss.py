"""Cross entropy in blocks is cross entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from smolorad.engine.train.fast import loss as loss_module
from smolorad.engine.train.fast import matmul
from smolorad.engine.train.fast.loss import Head, summed_cross_entropy


@pytest.mark.parametrize("rows", [0, 1, 2, 191, 192, 193, 400])
def test_loss_and_gradient(rows: int) -> None:
    torch.manual_seed(rows)
    hidden, weight = torch.randn(rows, 16, requires_grad=True), torch.randn(50, 16)
    targets = torch.randint(0, 50, (rows,))
    got = summed_cross_entropy(hidden, weight, targets)
    expected = functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    assert torch.allclose(got, expected, rtol=1e-5)
    left, right = (torch.autograd.grad(loss / 7, hidden)[0] for loss in (got, expected))
    assert torch.allclose(left, right, atol=1e-6)


def test_in_bf16_the_loss_is_that_of_the_rounded_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_multiplies", lambda dtype: True)
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 16).bfloat16().requires_grad_(), torch.randn(500, 16).bfloat16()
    targets = torch.randint(0, 500, (300,))
    got = summed_cross_entropy(hidden, weight, targets)
    expected = functional.cross_entropy((hidden @ weight.t()).float(), targets, reduction="sum")
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, rtol=1e-5)
    left, right = (torch.autograd.grad(loss, hidden)[0].float() for loss in (got, expected))
    assert (left - right).abs().max() < 0.02 * right.abs().max()


def test_logits_far_apart() -> None:
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    loss = summed_cross_entropy(hidden, torch.tensor([[1.0], [0.0]]), torch.tensor([1, 0]))
    assert loss.item() == 2000.0
    assert torch.autograd.grad(loss, hidden)[0].flatten().tolist() == [1.0, -1.0]


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    assert not summed_cross_entropy(torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2])).requires_grad


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("tiles", [(7, 11), (512, 2048), None], ids=str)
def test_heads(
    monkeypatch: pytest.MonkeyPatch,
    softcap: float | None,
    scale: float,
    has_bias: bool,
    tiles: tuple[int, int] | None,
) -> None:
    if tiles is None:
        monkeypatch.setattr(loss_module, "in_tiles", lambda hidden: False)  # all logits of a row at once
    else:
        monkeypatch.setattr(loss_module, "_TILE_ROWS", tiles[0])
        monkeypatch.setattr(loss_module, "_TILE_TOKENS", tiles[1])
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(31, 16, requires_grad=True), torch.randn(50, 16), torch.randn(50)
    head = Head(weight, bias if has_bias else None, scale, softcap)
    targets = torch.randint(0, 50, (31,))
    got = summed_cross_entropy(hidden, head, targets)
    expected = functional.cross_entropy(head.logits(hidden), targets, reduction="sum")
    assert torch.allclose(got, expected, rtol=1e-5)
    left, right = (torch.autograd.grad(one / 7, hidden)[0] for one in (got, expected))
    assert torch.allclose(left, right, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(summed_cross_entropy(hidden, head, targets), expected, rtol=1e-5)


def test_in_bf16_on_a_processor_that_does_not_multiply_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_multiplies", lambda dtype: False)
    torch.manual_seed(0)
    hidden, weight = torch.randn(30, 16).bfloat16().requires_grad_(), torch.randn(500, 16).bfloat16()
    targets = torch.randint(0, 500, (30,))
    got = summed_cross_entropy(hidden, weight, targets)
    expected = functional.cross_entropy(hidden.float() @ weight.float().t(), targets, reduction="sum")
    assert torch.allclose(got, expected, rtol=1e-3)
    left, right = (torch.autograd.grad(loss, hidden)[0].float() for loss in (got, expected))
    assert (left - right).abs().max() < 0.01 * right.abs().max()
