"""What our own library computes for a training is what torch computes, on however many threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from smolorad.engine.train.fast import kernels
from smolorad.engine.train.fast.attention import attend
from smolorad.engine.train.fast.batching import Segments
from smolorad.engine.train.fast.kernels import Term
from smolorad.engine.train.fast.layers import rms_norm, swiglu
from smolorad.engine.train.fast.lora import Projection, project
from smolorad.engine.train.fast.loss import summed_cross_entropy
from smolorad.engine.train.fast.matmul import Sum, compute
from tests.unit.engine.train.fast.conftest import near
from tests.unit.engine.train.fast.test_lora import modules

BothWays = Callable[[Callable[[], tuple[Tensor, ...]]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


def randn(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape).to(dtype)


def with_gradients(call: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """A computation of what a function gives, and of the gradients of what it is given."""

    def run() -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = call(*leaves)
        weights = torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype)
        return out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)

    return run


def check(both_ways: BothWays, dtype: torch.dtype, run: Callable[[], tuple[Tensor, ...]], share: float = 0.01) -> None:
    """`share`: by which bf16 may differ, of the largest number; fp32 differs in its last bits."""
    share = share if dtype is torch.bfloat16 else 1e-5
    for ours, theirs in zip(*both_ways(run), strict=True):
        assert ours.dtype is theirs.dtype
        assert ours.shape == theirs.shape
        assert near(ours, theirs, share)


# (rows, depth, columns): less than a tile and a panel, more than a slice and a chunk, few columns, and everything odd.
@pytest.mark.parametrize(
    "shape", [(1, 2, 1), (5, 10, 7), (12, 576, 32), (400, 1300, 40), (801, 650, 97), (33, 77, 64), (7, 1301, 33)]
)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_sums_of_products(
    both_ways: BothWays, dtype: torch.dtype, shape: tuple[int, int, int], turned: bool, exact: bool
) -> None:
    torch.manual_seed(0)
    rows, depth, columns = shape
    x, low = randn(dtype, rows, depth), randn(dtype, rows, 8)
    w = randn(dtype, columns, depth).t() if turned else randn(dtype, depth, columns)
    second = randn(dtype, columns, 8).t() if turned else randn(dtype, 8, columns)
    added = randn(dtype, rows, columns)
    check(
        both_ways, dtype, lambda: tuple(compute([Sum([(x, w), (low, second)], added, exact), Sum([(x, w)], added[0], exact)]))
    )


def test_many_terms(both_ways: BothWays, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    terms = [(randn(dtype, 20, depth), randn(dtype, depth, 50)) for depth in (2, 1, 640, 3, 8, 8, 8, 8, 8, 8, 8, 8, 8, 700, 5)]
    check(both_ways, dtype, lambda: tuple(compute([Sum(terms)])))


def test_parts_of_tensors(both_ways: BothWays, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, w, out = randn(dtype, 20, 100)[:, 3:63], randn(dtype, 60, 90)[:, 7:40], torch.zeros(20, 50).to(dtype)

    def run() -> tuple[Tensor, ...]:
        compute([Sum([(x, w)])], [out[:, 9:42]])
        return (out.clone(),)

    check(both_ways, dtype, run)


@pytest.mark.parametrize("width", [8, 24, 576])
def test_norm(both_ways: BothWays, dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(0)
    weight = torch.linspace(-1, 2, width).to(dtype)
    check(both_ways, dtype, with_gradients(lambda x: rms_norm(x, weight, 1e-3), randn(dtype, 1, 13, width)), 0.02)


def test_gates(both_ways: BothWays, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    check(both_ways, dtype, with_gradients(swiglu, 4 * randn(dtype, 3, 2001), randn(dtype, 3, 2001)), 0.02)


@pytest.mark.parametrize("gate", [-200.0, 200.0, float("inf")])
def test_gates_at_the_ends(both_ways: BothWays, dtype: torch.dtype, gate: float) -> None:
    (ours,), (theirs,) = both_ways(lambda: (swiglu(torch.full((20,), gate).to(dtype), torch.ones(20).to(dtype)),))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("lengths", [(1,), (7,), (1, 2, 9), (40, 40), (17, 33, 190), (3, 250, 700)], ids=str)
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(6, 2, 8), (3, 3, 64), (9, 3, 24)])
@pytest.mark.parametrize("turning", [False, True])
def test_attention(
    both_ways: BothWays, dtype: torch.dtype, lengths: tuple[int, ...], heads: int, key_heads: int, width: int, turning: bool
) -> None:
    torch.manual_seed(0)
    tokens = sum(lengths)
    angle = torch.randn(tokens, width)[:, : width // 2]
    angles = (angle.cos().to(dtype), angle.sin().to(dtype)) if turning else ()
    segments = Segments.of(lengths)
    inputs = [randn(dtype, tokens, count, width) for count in (heads, key_heads, key_heads)]
    check(both_ways, dtype, with_gradients(lambda q, k, v: attend(q, k, v, segments, 0.2, 0.0, angles), *inputs), 0.03)


@pytest.mark.parametrize("rows", [0, 1, 30, 400])
def test_loss(both_ways: BothWays, dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(rows)
    weight, targets = randn(dtype, 510, 16), torch.randint(0, 510, (rows,))
    hidden = randn(dtype, rows, 16)

    def run() -> tuple[Tensor, ...]:
        leaf = hidden.clone().requires_grad_()
        loss = summed_cross_entropy(leaf, weight, targets)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    check(both_ways, dtype, run)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("targets", [["q", "v"], ["q", "k", "v"], []], ids=str)
def test_projections(both_ways: BothWays, dtype: torch.dtype, targets: list[str], dropout: float) -> None:
    made = modules(targets, dropout=dropout, rank=4)
    for name, parameter in made.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    x = randn(dtype, 1, 37, 12)

    def run() -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        leaf = x.clone().requires_grad_()
        outs = project(leaf, [Projection.of(module) for module in made.values()])
        wanted = [leaf, *(parameter for parameter in made.parameters() if parameter.requires_grad)]
        return *(out.detach() for out in outs), *torch.autograd.grad(sum(out.float().square().sum() for out in outs), wanted)

    check(both_ways, dtype, run, 0.03)


def checked(dtype: torch.dtype) -> kernels.Kernels:
    """What looks at tensors before it calls; there is nothing to be called, on whatever processor."""
    made = object.__new__(kernels.Kernels)
    made.dtype = dtype
    return made


def test_products_of_what_does_not_go_together_reach_no_pointer(dtype: torch.dtype) -> None:
    native = checked(dtype)
    x, w, out = randn(dtype, 6, 10), randn(dtype, 10, 7), randn(dtype, 6, 7)
    assert native.multiplies([(x, w)], out)
    wrong: list[tuple[Term, Tensor, Tensor | None]] = [
        ((x, w[:9]), out, None),
        ((x[:, :9], w), out, None),
        ((x, w), out[:, :6], None),
        ((x, w), out[:5], None),
        ((x, w), out.t().contiguous().t(), None),
        ((x, w), out[:1].expand(6, 7), None),
        ((x, w), out.double(), None),
        ((x, w), out, out[0, :6]),
        ((x, w), out, out[:5]),
        ((x, w), out, out.double()),
        ((x, w), out, out[:, ::2]),
        ((x.t().contiguous().t(), w), out, None),
        ((x, w.double()), out, None),
        ((x[:0], w), out[:0], None),
        ((x[:, :0], w[:0]), out, None),
    ]
    for term, to, added in wrong:
        with pytest.raises(ValueError, match="cannot compute"):
            native.products([to], [[term]], [added])
    with pytest.raises(ValueError, match="cannot compute"):
        native.products([out], [[(x, w), (x[:5, :8], w[:8])]], [None])
    with pytest.raises(RuntimeError):
        compute([Sum([(x, w[:9])])])


def test_a_loss_of_what_does_not_go_together_reaches_no_pointer(dtype: torch.dtype) -> None:
    native, logits, targets = checked(dtype), randn(dtype, 4, 9), torch.tensor([0, 8, 3, 1])
    for one, other in (
        (logits, targets + 1),
        (logits, targets - 1),
        (logits, targets[:3]),
        (logits, targets.int()),
        (logits, targets.repeat(2)[::2]),
        (logits.double(), targets),
        (logits[:, ::2], targets.clamp(max=3)),
        (logits[:1].expand(4, 9), targets),
    ):
        with pytest.raises(ValueError, match="cannot compute"):
            native.loss(one, other, back=True)


def test_norms_and_gates_of_what_does_not_go_together_reach_no_pointer(dtype: torch.dtype) -> None:
    native, x, weight, scale = checked(dtype), randn(dtype, 5, 12), randn(dtype, 12), torch.ones(5)
    turned, short = x.t().contiguous().t(), x[:4]
    calls: list[Callable[[], object]] = [
        lambda: native.norm(x, weight[:11], 1e-5),
        lambda: native.norm(turned, weight, 1e-5),
        lambda: native.norm(x.double(), weight, 1e-5),
        lambda: native.norm(x[None], weight, 1e-5),
        lambda: native.norm_back(short, x, weight, scale),
        lambda: native.norm_back(turned, x, weight, scale),
        lambda: native.norm_back(x, x, weight, scale[:4]),
        lambda: native.norm_back(x, x, weight, scale.double()),
        lambda: native.norm_back(x, x, weight, scale, short),
        lambda: native.gates(x, short),
        lambda: native.gates(x, turned),
        lambda: native.gates_back(short, x, x),
        lambda: native.gates_back(x, x, turned),
        lambda: native.gates_back(x.double(), x, x),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="cannot compute"):
            call()


def test_attention_of_what_does_not_go_together_reaches_no_pointer(dtype: torch.dtype) -> None:
    native, segments = checked(dtype), Segments.of([13, 37])
    q, k, v = (randn(dtype, 50, heads, 8) for heads in (4, 2, 2))
    angles = (randn(dtype, 50, 4), randn(dtype, 50, 4))
    assert native.attends(q, k, v, angles)
    wrong: list[tuple[Sequence[Tensor], Sequence[Tensor], Segments, Sequence[Tensor]]] = [
        ((q, k, randn(dtype, 50, 2, 6)), (q,), segments, ()),
        ((q[:, :3].contiguous(), k, v), (q[:, :3].contiguous(),), segments, ()),
        ((q[..., :7].contiguous(), k[..., :7].contiguous(), v[..., :7].contiguous()), (q[..., :7].contiguous(),), segments, ()),
        ((q, k[:49], v[:49]), (q,), segments, ()),
        ((q, k, v), (q[:49],), segments, ()),
        ((q, k, v), (q, k, v), segments, ()),
        ((q, k, v, q[:49]), (q, k, v), segments, ()),
        ((q, k, v, q), (q, k), segments, ()),
        ((q, k, v), (q,), Segments.of([13, 38]), ()),
        ((q, k, v), (q,), segments, angles[:1]),
        ((q, k, v), (q,), segments, (angles[0], angles[1][:, :3])),
        ((q, k, v), (q,), segments, (angles[0], torch.cat([angles[1], angles[1]], 1)[:, :4])),
        ((q.transpose(0, 1).contiguous().transpose(0, 1), k, v), (q,), segments, ()),
        ((q.double(), k, v), (q,), segments, ()),
    ]
    for given, made, texts, turning in wrong:
        with pytest.raises(ValueError, match="cannot compute"):
            native.attention(given, made, texts, turning, 0.2)


def test_where_torch_has_no_threads_to_lend_it_computes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *given: Any) -> None:
        raise AttributeError("GOMP_parallel")

    kernels._kernels.cache_clear()
    monkeypatch.setattr(kernels.Kernels, "__init__", refuse)
    try:
        assert kernels._kernels(torch.float32) is None
    finally:
        kernels._kernels.cache_clear()
