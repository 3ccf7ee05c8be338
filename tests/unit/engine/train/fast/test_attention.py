"""Attention over texts that lie end to end is each text's own causal attention; gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from smolorad.engine.train.fast import matmul
from smolorad.engine.train.fast.attention import attend
from smolorad.engine.train.fast.batching import Segments

# One text, several alike, short with long, blocks that end in their middle.
LENGTHS = [(1,), (7,), (3, 5, 9), (1, 2, 300), (40, 40), (129, 140), (256,)]


def one_by_one(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float) -> Tensor:
    parts = []
    for q, k, v in zip(*(tensor.split(lengths) for tensor in (query, key, value)), strict=True):
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (3, 3)])
def test_as_one_by_one(lengths: tuple[int, ...], heads: int, key_heads: int) -> None:
    torch.manual_seed(0)
    shapes = [(sum(lengths), count, 8) for count in (heads, key_heads, key_heads)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = torch.randn(shapes[0], dtype=torch.float64)
    got = attend(*inputs, Segments.of(lengths), 0.3)
    expected = one_by_one(*inputs, lengths, 0.3)
    assert torch.allclose(got, expected, atol=1e-12)
    for left, right in zip(
        torch.autograd.grad((got * weights).sum(), inputs), torch.autograd.grad((expected * weights).sum(), inputs), strict=True
    ):
        assert torch.allclose(left, right, atol=1e-12)


def written_out(
    inputs: list[Tensor], lengths: tuple[int, ...], window: int | None, softcap: float | None, slopes: Tensor | None
) -> Tensor:
    """Each score by itself."""
    parts = []
    for q, k, v in zip(*(tensor.split(lengths) for tensor in inputs), strict=True):
        k, v = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], 1) for tensor in (k, v))
        scores = torch.einsum("ihw,jhw->hij", q, k) * 0.3
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        place = torch.arange(len(q))
        if slopes is not None:
            scores = scores + slopes[:, None, None] * place
        back = place[:, None] - place
        hidden = (back < 0) | (back >= (window or len(q)))
        parts.append(torch.einsum("hij,jhw->ihw", scores.masked_fill(hidden, -torch.inf).softmax(-1), v))
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", [*LENGTHS, (300, 310)], ids=str)
@pytest.mark.parametrize("window", [None, 1, 5, 100, 128, 129, 200, 255])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("has_slopes", [False, True])
def test_windows_soft_caps_and_slopes(
    lengths: tuple[int, ...], window: int | None, softcap: float | None, has_slopes: bool
) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(sum(lengths), count, 4, dtype=torch.float64, requires_grad=True) for count in (4, 2, 2)]
    weights = torch.randn(inputs[0].shape, dtype=torch.float64)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0]) if has_slopes else None
    gains = slopes[:, None] * torch.arange(max(lengths)) if slopes is not None else None
    expected = written_out(inputs, lengths, window, softcap, slopes)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for dropout in (0.0, 1e-12):
        got = attend(*inputs, Segments.of(lengths), 0.3, dropout, window=window, softcap=softcap, gains=gains)
        found = torch.autograd.grad((got * weights).sum(), inputs)
        for left, right in zip((got, *found), (expected, *wanted), strict=True):
            assert torch.allclose(left, right, atol=1e-10)


@pytest.mark.parametrize("multiplies", [True, False])
def test_in_bf16_with_a_window_and_a_soft_cap_as_near_as_rounding_allows(
    monkeypatch: pytest.MonkeyPatch, multiplies: bool
) -> None:
    monkeypatch.setattr(matmul, "_multiplies", lambda dtype: multiplies)
    torch.manual_seed(0)
    lengths = (17, 60)
    inputs = [torch.randn(sum(lengths), heads, 16, requires_grad=True) for heads in (4, 2, 2)]
    expected = written_out(inputs, lengths, 20, 3.0, None)
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    short = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs]
    got = attend(*short, Segments.of(lengths), 0.3, window=20, softcap=3.0)
    found = torch.autograd.grad(got.float().square().sum(), short)
    for left, right in zip((got, *found), (expected, *wanted), strict=True):
        assert (left.float() - right).abs().max() < 0.05 * right.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("width", [(24, 16), (8, 12), (7, 7), (1, 3)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_values_of_another_width(dtype: torch.dtype, width: tuple[int, int], dropout: float) -> None:
    torch.manual_seed(0)
    lengths, heads = (13, 37, 200), 4
    shapes = [(sum(lengths), heads, wide) for wide in (width[0], width[0], width[1])]
    exact = [torch.randn(shape).to(dtype).double().requires_grad_() for shape in shapes]
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    got, expected = attend(*inputs, Segments.of(lengths), 0.2, dropout), one_by_one(*exact, lengths, 0.2)
    weights = torch.randn(expected.shape, dtype=torch.float64).to(dtype)
    found = torch.autograd.grad((got * weights).sum(), inputs)
    near = 1e-5 if dtype is not torch.bfloat16 else 0.03
    wanted = torch.autograd.grad((expected * weights).sum(), exact)
    for left, right in zip((got, *found), (expected, *wanted), strict=True):
        assert (left - right).abs().max() <= near * right.abs().max()


def test_what_does_not_go_together_is_refused() -> None:
    q, k, v = torch.randn(50, 4, 8), torch.randn(50, 2, 8), torch.randn(50, 2, 8)
    segments = Segments.of([13, 37])
    assert attend(q, k, v, segments, 0.2).shape == q.shape
    for changed in ((q[:, :3], k, v), (q, k[:, :, :6], v), (q, k, v[:, :1]), (q, k[:49], v), (q[:49], k[:49], v[:49])):
        with pytest.raises(ValueError, match=r"cannot attend|do not fill"):
            attend(*changed, segments, 0.2)
    with pytest.raises(ValueError, match="without a token"):
        Segments.of([0, 3])


def test_in_bf16_as_near_as_rounding_allows() -> None:
    torch.manual_seed(0)
    lengths = (17, 33, 200)
    inputs = [torch.randn(sum(lengths), heads, 64) for heads in (9, 3, 3)]
    exact = one_by_one(*inputs, lengths, 0.125)
    got = attend(*(tensor.bfloat16() for tensor in inputs), Segments.of(lengths), 0.125).float()
    assert (got - exact).abs().max() < 0.02 * exact.abs().max()


def test_with_dropout_the_mean_is_the_same_and_a_text_sees_no_other() -> None:
    torch.manual_seed(0)
    lengths = (4, 6)
    query, key = (torch.randn(10, heads, 8) for heads in (4, 2))
    value = torch.zeros(10, 2, 8)
    value[4:] = 1.0
    segments = Segments.of(lengths)
    drawn = torch.stack([attend(query, key, value, segments, 0.3, 0.5) for _ in range(400)])
    assert (drawn[:, :4] == 0).all()
    assert drawn[:, 4:].std(0).max() > 0.1
    assert drawn[:, 4:].mean() == pytest.approx(1.0, abs=0.05)
