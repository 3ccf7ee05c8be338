"""Any sizes that go together give what numpy gives, and any that do not reach no pointer.

`make sanitize` runs this under AddressSanitizer and UBSan, with more examples.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from smolora.common.paths import cache_path
from smolorad.domain import Precision
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part
from smolorad.engine.native.description import Decoder
from smolorad.engine.native.library import GROUP, Format, Library, Matrix
from smolorad.engine.native.lora import Lora
from smolorad.engine.native.misfit import shapes_of
from smolorad.engine.native.packed_formats import packed_format, parts_of
from smolorad.engine.runtime.dtypes import to_bf16, to_fp32
from smolorad.engine.train.fast.attention import attend
from smolorad.engine.train.fast.batching import Segments
from smolorad.engine.train.fast.layers import rms_norm, swiglu
from smolorad.engine.train.fast.loss import summed_cross_entropy
from smolorad.engine.train.fast.matmul import Sum, compute
from tests.unit.engine.native.decoders import decoders
from tests.unit.engine.native.reference import Loras, logits_of

_PACKED = (Format.INT8, Format.INT4, Format.INT5)
# Of the spread of the logits: sums in another order; keys, values and vectors rounded to bf16; vectors made integers.
_NEAR = {Precision.EXACT: 1e-4, Precision.INT8: 1e-2, Precision.INT4: 1e-2}
_NEAR_BF16 = 6e-2

# `make sanitize` has a profile of its own, with more.
few = settings(max_examples=max(25, settings.default.max_examples // 4))
_THREADS = st.sampled_from([1, 2])
# Steps after others, now and then, up to keys of another block.
_MORE_BLOCKS = st.sampled_from([[], [], [], [MAX_ROWS // 3] * 6 + [1, 2]])


@functools.cache
def compiled(threads: int) -> Library:
    built = library(cache_path(), threads)
    assert built is not None, "these tests need a C compiler"
    return built


@dataclass(frozen=True)
class Case:
    """A model, what its weights are, and how its tokens come."""

    decoder: Decoder
    precision: Precision
    in_bf16: bool
    ranks: tuple[int, ...]  # of adapters on some projections
    steps: tuple[int, ...]  # tokens in each step of a sequence
    company: int  # sequences that come along
    threads: int
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    precision, in_bf16 = draw(st.sampled_from(list(Precision))), draw(st.booleans())
    packed = precision is not Precision.EXACT
    return Case(
        draw(decoders(packed=packed, sure_experts=packed or in_bf16)),
        precision,
        in_bf16,
        tuple(draw(st.lists(st.integers(1, 130), max_size=3))),
        tuple(draw(st.lists(st.integers(1, MAX_ROWS // 3), min_size=1, max_size=4)) + draw(_MORE_BLOCKS)),
        draw(st.integers(0, 2)),
        draw(_THREADS),
        draw(st.integers(0, 2**16)),
    )


def weights_of(case: Case) -> dict[str, NDArray[Any]]:
    """Random ones, in the case's format."""
    random = np.random.default_rng(case.seed)
    shapes = shapes_of(case.decoder, positions=case.decoder.first_position + sum(case.steps))
    transposed = {linear.weight for linear in case.decoder.linears if linear.transposed}
    weights = {}
    for name, shape in shapes.items():
        drawn = random.normal(size=shape).astype(np.float32) / np.float32(max(shape[-1], 1) ** 0.5 if len(shape) > 1 else 1)
        held = to_bf16(drawn) if case.in_bf16 else drawn
        weights[name] = np.asfortranarray(held) if name in transposed else held
    return weights


def loras_of(case: Case) -> Loras:
    random = np.random.default_rng(case.seed + 1)
    sizes = case.decoder.module_sizes
    found = {}
    for rank in case.ranks:
        out, cols = sizes[(name := sorted(sizes)[int(random.integers(len(sizes)))])]
        a, b = random.normal(size=(rank, cols)), random.normal(size=(out, rank))
        found[name] = (a.astype(np.float32) / 4, b.astype(np.float32) / 4, 0.5 / (rank * cols) ** 0.5)
    return found


def numbers_of(built: Library, case: Case, weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The weights as the products have them: packed ones rounded. A tied embedding is read exactly, too."""
    numbers = {name: to_fp32(array).copy() for name, array in weights.items()}
    if case.precision is Precision.EXACT:
        return numbers
    decoder = case.decoder

    def rounded(array: NDArray[Any], part: str) -> NDArray[Any]:
        packed = built.pack(np.ascontiguousarray(array), packed_format(case.precision, part))
        return built.multiply(np.eye(array.shape[1], dtype=np.float32), packed).T

    for layer in decoder.layers:
        for linear, part in zip(layer.projections, parts_of(layer), strict=True):
            if linear is not None:
                array, into = weights[linear.weight], numbers[linear.weight]
                rows, to = (array.T, into.T) if linear.transposed else (array, into)
                to[linear.span] = rounded(rows[linear.span], part)
    for experts in decoder.experts:
        for name in (experts.gate_up, experts.down):
            numbers[name] = np.stack([rounded(one, "expert") for one in weights[name]])
    numbers["head as it is multiplied"] = rounded(weights[decoder.head], "head")
    return numbers


@few
@given(case=cases())
def test_a_model(case: Case) -> None:
    weights, loras, built = weights_of(case), loras_of(case), compiled(case.threads)
    native = NativeModel(built, case.decoder, weights, case.precision)
    lora = Lora.of(case.decoder, loras) if loras else None
    random = np.random.default_rng(case.seed + 2)
    whole = sum(case.steps)
    texts = [random.integers(case.decoder.vocabulary, size=whole).tolist() for _ in range(1 + case.company)]
    caches = [native.cache(whole) for _ in texts]  # to the last token, so that one too many has no room
    found: list[list[NDArray[np.float32]]] = [[] for _ in texts]
    begin = 0
    for count in case.steps:
        parts = [Part(text[begin : begin + count], cache, lora, every=True) for text, cache in zip(texts, caches, strict=True)]
        logits = native.step(parts)
        for number in range(len(texts)):
            found[number].append(logits[number * count : (number + 1) * count])
        begin += count
    numbers = numbers_of(built, case, weights)
    head = "head as it is multiplied" if case.precision is not Precision.EXACT else case.decoder.head
    decoder = dataclasses.replace(case.decoder, head=head)
    for text, some in zip(texts, found, strict=True):
        expected = logits_of(decoder, numbers, text, loras)
        near = _NEAR_BF16 if case.in_bf16 else _NEAR[case.precision]
        difference, largest = np.abs(np.concatenate(some) - expected), np.abs(expected).max()
        if case.in_bf16 or case.precision is not Precision.EXACT:
            # What is rounded on its way may cancel in the end, in some places.
            assert difference.mean() <= near * (largest + 1.0)
        else:
            assert difference.max() <= near * (largest + 1e-1)


@few
@given(case=cases(), data=st.data())
def test_a_model_whose_sizes_do_not_go_together(case: Case, data: st.DataObject) -> None:
    weights = weights_of(case)
    decoder = case.decoder
    if data.draw(st.booleans(), "a size is another"):
        name = data.draw(st.sampled_from(["layers", "hidden", "heads", "kv_heads", "head_dim", "vocabulary"]))
        if name == "layers":
            decoder = dataclasses.replace(decoder, layers=decoder.layers[1:])
        else:
            value = data.draw(st.integers(-2, 200).filter(lambda one: one != getattr(decoder, name)))
            decoder = dataclasses.replace(decoder, **{name: value})
    else:
        name = data.draw(st.sampled_from(sorted(weights)))
        free = {decoder.embedding if decoder.embedding != decoder.head else "", decoder.positions}  # any number of rows
        axis = 1 if name in free else data.draw(st.integers(0, weights[name].ndim - 1))
        weights[name] = np.concatenate([weights[name], weights[name]], axis=axis)
    with pytest.raises(ValueError, match="native step"):
        NativeModel(compiled(case.threads), decoder, weights, case.precision)


def _whole_numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where whole numbers are in what JSON is made of."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _whole_numbers(inner, (*path, key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path


_OTHERS = st.integers(-2, 130) | st.sampled_from([2**31 - 1, 2**31, 2**32 + 1, -(2**31), 2**62])


@few
@given(case=cases(), data=st.data())
def test_a_description_with_other_numbers_reads_nothing_beyond_its_weights(case: Case, data: st.DataObject) -> None:
    weights, changed = weights_of(case), msgspec.to_builtins(case.decoder)
    for path in data.draw(st.lists(st.sampled_from(list(_whole_numbers(changed))), min_size=1, max_size=2)):
        place = functools.reduce(lambda inner, key: inner[key], path[:-1], changed)
        place[path[-1]] = data.draw(_OTHERS)
    try:
        native = NativeModel(compiled(case.threads), msgspec.convert(changed, Decoder), weights, case.precision)
        cache = native.cache(1)
        found = native.step([Part([0], cache)])  # the sanitizers watch it
    except (ValueError, MemoryError):
        return
    assert (len(found), cache.length) == (1, 1)
    assert found.shape[1] > 0


def matrices() -> Iterator[Any]:
    yield st.sampled_from(list(Format))
    yield st.integers(1, 70)  # rows
    yield st.integers(1, 130)  # columns; of packed ones, groups
    yield st.integers(1, 40)  # vectors
    yield st.integers(0, 2**16)


@few
@given(drawn=st.tuples(*matrices()), threads=_THREADS, size=st.sampled_from([1.0, 1e-40, 1e-36, 1e30]))
def test_a_product(drawn: tuple[Format, int, int, int, int], threads: int, size: float) -> None:
    (format, rows, cols, count, seed), built = drawn, compiled(threads)
    random = np.random.default_rng(seed)
    packed = format in _PACKED
    cols = (cols % 5 + 1) * GROUP if packed else cols
    weight = random.normal(size=(rows, cols)).astype(np.float32)
    x = (random.normal(size=(count, cols)) * size).astype(np.float32)
    held = to_bf16(weight) if format is Format.BF16 else weight
    matrix = built.pack(held, format) if packed else Matrix.of(held)
    numbers = built.multiply(np.eye(cols, dtype=np.float32), matrix).T if packed else to_fp32(held)
    expected = x.astype(np.float64) @ numbers.T.astype(np.float64)
    got = built.multiply(x, matrix)
    near = {Format.FP32: 1e-5, Format.BF16: 2e-2}.get(format, 1e-3)
    assert np.abs(got - expected).max() <= near * size * cols + 1e-36 * cols


_BAD = st.sampled_from([np.nan, np.inf, -np.inf])


@few
@given(drawn=st.tuples(*matrices()), bad=_BAD, size=st.sampled_from([0.0, 1e-42, 1e-38, 1e-20, 1.0, 1e15, 1e20, 1e37]))
def test_packing_whatever_there_is(drawn: tuple[Format, int, int, int, int], bad: float, size: float) -> None:
    (_, rows, cols, _, seed), built = drawn, compiled(2)
    cols = (cols % 5 + 1) * GROUP
    random = np.random.default_rng(seed)
    weight = (random.uniform(-1, 1, size=(rows, cols)) * size).astype(np.float32)
    broken = weight.copy()
    row, column = int(random.integers(rows)), int(random.integers(cols))
    broken[row, column] = bad
    for format in _PACKED:
        for held in (weight, to_bf16(weight)):
            whole = built.multiply(np.eye(cols, dtype=np.float32), built.pack(held, format)).T
            assert np.abs(whole - weight).max() <= 0.14 * size + 1e-37
        for held in (broken, to_bf16(broken)):
            products = built.multiply(np.ones((1, cols), np.float32), built.pack(held, format))[0]
            assert not np.isfinite(products[row])
            assert np.isfinite(np.delete(products, row)).all() or size > 1e36


@st.composite
def attentions(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int, int, bool, int]:
    lengths = draw(st.lists(st.integers(1, 40) | st.integers(90, 290), min_size=1, max_size=4).map(sorted))
    key_heads = draw(st.integers(1, 3))
    width = draw(st.integers(1, 40)) * 2
    return (
        tuple(lengths),
        key_heads * draw(st.integers(1, 3)),
        key_heads,
        width,
        draw(st.booleans()),
        draw(st.integers(0, 2**16)),
    )


@few
@given(drawn=attentions(), dtype=st.sampled_from([torch.float32, torch.bfloat16]), other=st.integers(1, 40))
def test_attention_in_training(drawn: tuple[tuple[int, ...], int, int, int, bool, int], dtype: torch.dtype, other: int) -> None:
    lengths, heads, key_heads, width, turning, seed = drawn
    torch.manual_seed(seed)
    tokens = sum(lengths)
    segments = Segments.of(lengths)
    angle = torch.randn(tokens, width // 2)
    angles = [angle.cos().to(dtype), angle.sin().to(dtype)] if turning else []
    for wide in (width, other):
        shapes = [(tokens, heads, width), (tokens, key_heads, width), (tokens, key_heads, wide)]
        inputs = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
        wanted = attend(*exact, segments, 0.2, 0.0, [one.double() for one in angles])
        weights = torch.randn(wanted.shape).to(dtype)
        got = attend(*inputs, segments, 0.2, 0.0, angles)
        near = 5e-2 if dtype is torch.bfloat16 else 1e-4
        ours = (got, *torch.autograd.grad((got * weights).sum(), inputs))
        theirs = (wanted, *torch.autograd.grad((wanted * weights).sum(), exact))
        for left, right in zip(ours, theirs, strict=True):
            assert float((left - right).abs().max().detach()) <= near * float(right.abs().max().detach()) + 1e-6


@few
@given(
    sizes=st.tuples(*[st.integers(1, 90)] * 2, st.lists(st.integers(1, 90) | st.integers(600, 1400), min_size=1, max_size=3)),
    turns=st.lists(st.booleans(), min_size=3, max_size=3),
    added=st.sampled_from(["none", "row", "rows"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_sums_of_products_in_training(
    sizes: tuple[int, int, list[int]], turns: list[bool], added: str, dtype: torch.dtype, seed: int
) -> None:
    rows, columns, depths = sizes
    torch.manual_seed(seed)
    terms = []
    for depth, turned in zip(depths, turns, strict=False):
        w = torch.randn(columns, depth).to(dtype).t() if turned else torch.randn(depth, columns).to(dtype)
        terms.append((torch.randn(rows, depth).to(dtype), w))
    more = {"none": None, "row": torch.randn(columns).to(dtype), "rows": torch.randn(rows, columns).to(dtype)}[added]
    for exact in (False, True):
        (got,) = compute([Sum(terms, more, exact)])
        wanted = sum((x.double() @ w.double() for x, w in terms), torch.zeros(()) if more is None else more.double())
        near = 5e-2 if dtype is torch.bfloat16 else 1e-4
        assert float((got - wanted).abs().max()) <= near * float(wanted.abs().max()) + 1e-6


@few
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 100),
    vocabulary=st.integers(1, 200),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_what_a_training_computes_between_its_products(
    rows: int, width: int, vocabulary: int, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    x, up = (torch.randn(rows, width).to(dtype).requires_grad_() for _ in range(2))
    weight, head = torch.randn(width).to(dtype), torch.randn(vocabulary, width).to(dtype)
    targets = torch.randint(0, vocabulary, (rows,))

    def of(x: Tensor, up: Tensor, *, ours: bool) -> tuple[Tensor, ...]:
        normed = rms_norm(x, weight, 1e-3) if ours else functional.rms_norm(x, (width,), weight.to(x), 1e-3)
        gated = swiglu(x, up) if ours else functional.silu(x) * up
        if ours:
            loss = summed_cross_entropy(normed, head, targets)
        else:
            loss = functional.cross_entropy(normed @ head.to(x).t(), targets, reduction="sum")
        return normed, gated, loss, *torch.autograd.grad(loss / rows + gated.sum(), (x, up))

    exact = [one.detach().double().requires_grad_() for one in (x, up)]
    near = 8e-2 if dtype is torch.bfloat16 else 1e-4
    for left, right in zip(of(x, up, ours=True), of(*exact, ours=False), strict=True):
        assert float((left - right).abs().max().detach()) <= near * float(right.abs().max().detach()) + 1e-4
