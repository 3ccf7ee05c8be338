"""Our own library's part in training, on processors with AVX-512: in fp32, and in bf16 where they multiply it.

Elsewhere torch computes the same.

Its work is done by torch's own threads: more of them would fight for the cores, as torch's stay awake for a while after work.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smolora.common.paths import cache_path
from smolorad.engine.native.build import train_library
from smolorad.engine.native.library import Format
from smolorad.engine.native.structs import (
    AttentionStruct,
    GatesStruct,
    LossStruct,
    NormStruct,
    ProductStruct,
    TeamStruct,
    TermStruct,
)
from smolorad.engine.train.fast.batching import Segments

log = logging.getLogger(__name__)

_FORMATS = {torch.float32: Format.FP32, torch.bfloat16: Format.BF16}
_PANEL = 32  # columns
_LINE_BYTES = 64
_CALLS = ("products", "loss", "norm", "gates", "attention")

Term = tuple[Tensor, Tensor]  # (rows, depth) and (depth, columns)


class Kernels:
    """The library's calls. Tensors are in its one dtype on the CPU, and contiguous where nothing else is said.

    Each raises ValueError for tensors that do not go together: C would read and write beyond their ends.
    """

    def __init__(self, loaded: ctypes.CDLL, dtype: torch.dtype) -> None:
        """Raises OSError and AttributeError where torch's threads are none that can be borrowed."""
        self.dtype = dtype
        torch_library = ctypes.CDLL(torch._C.__file__)
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        self._team = TeamStruct(*(ctypes.cast(torch_library[name], ctypes.c_void_p) for name in names))
        self._team_address = ctypes.addressof(self._team)
        self._loaded = {name: getattr(loaded, f"smolora_{name}") for name in _CALLS}
        for call in self._loaded.values():
            call.restype, call.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p)
        self._loaded["products"].argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._attention_scratch = loaded.smolora_attention_scratch
        self._attention_scratch.restype, self._attention_scratch.argtypes = ctypes.c_size_t, (ctypes.c_void_p, ctypes.c_int)

    def multiplies(self, terms: Sequence[Term], added: Tensor | None) -> bool:
        """Whether `products` takes a sum of these terms; torch computes, or refuses, the others."""
        (x, w), *_ = terms
        rows, columns = x.shape[0], w.shape[-1]
        if not rows or not columns or not all(self._reads(one, rows, columns) for one in terms):
            return False
        if added is None:
            return True
        shaped = added.shape in ((rows, columns), (columns,)) and (columns == 1 or added.stride(-1) == 1)
        return shaped and self._supports(added)

    def _reads(self, term: Term, rows: int, columns: int) -> bool:
        """It takes 32 bits at a time."""
        x, w = term
        together = x.ndim == w.ndim == 2 and x.shape == (rows, len(w)) and w.shape[1] == columns and len(w) > 0
        if not together or not self._supports(x, w) or x.stride(1) != 1:
            return False
        return w.stride(1) == 1 or (w.stride(0) == 1 and len(w) * w.element_size() % 4 == 0)

    def attends(self, query: Tensor, key: Tensor, value: Tensor, angles: Sequence[Tensor]) -> bool:
        """Whether `attention` takes tensors of these shapes: one even width for all."""
        tokens, heads, width = query.shape
        if key.shape != (tokens, key.shape[1], width) or value.shape != key.shape or heads % key.shape[1] or width % 2:
            return False
        angled = all(one.shape == (tokens, width // 2) and one.stride(1) == 1 for one in angles)
        alike = len({one.stride(0) for one in angles}) <= 1
        return (
            tokens > 0
            and width > 0
            and self._supports(query, key, value, *angles)
            and angled
            and alike
            and len(angles) in (0, 2)
        )

    def _supports(self, *tensors: Tensor) -> bool:
        return all(tensor.dtype is self.dtype and tensor.device.type == "cpu" for tensor in tensors)

    def products(self, outs: Sequence[Tensor], terms: Sequence[Sequence[Term]], added: Sequence[Tensor | None]) -> None:
        """Makes each of `outs` (rows, columns), in the library's dtype or fp32, the sum of its terms and of `added`.

        A factor's columns lie close together; or a second factor's rows, which then have an even number of numbers in bf16.
        """
        products: list[ProductStruct] = []
        factors: list[TermStruct] = []
        kept = []
        for out, some, more in zip(outs, terms, added, strict=True):
            (x, w), *_ = some
            rows, columns = x.shape[0], w.shape[-1]
            _need(self.multiplies(some, more), "terms that do not go together")
            _need(out.shape == (rows, columns) and out.stride(1) == 1, f"no room for ({rows}, {columns}) numbers")
            _need(rows == 1 or out.stride(0) >= columns, "rows that lie upon each other")
            _need(out.dtype in (self.dtype, torch.float32) and out.device.type == "cpu", f"an output in {out.dtype}")
            partial = torch.empty(rows, -(-columns // _PANEL) * _PANEL)
            kept.append(partial)
            start, step = (0, 0) if more is None else (more.data_ptr(), more.stride(0) if more.ndim == 2 else 0)
            strides = (out.stride(0), step, partial.stride(0))
            what = (rows, columns, _FORMATS[out.dtype], len(some))
            products.append(ProductStruct(out.data_ptr(), start, partial.data_ptr(), *strides, *what))
            for x, w in some:
                transposed = w.stride(1) != 1
                steps = (x.stride(0), w.stride(1 if transposed else 0))
                factors.append(TermStruct(x.data_ptr(), w.data_ptr(), *steps, w.shape[0], transposed))
        table, terms_table = (ProductStruct * len(products))(*products), (TermStruct * len(factors))(*factors)
        self._run("products", table, len(products), terms_table)

    def loss(self, logits: Tensor, targets: Tensor, *, back: bool) -> Tensor:
        """Cross entropy of `logits` (rows, vocabulary), each row contiguous, and `targets` (rows,): (rows,) in fp32.

        If `back`, `logits` become its gradient.
        """
        _need(self._supports(logits) and logits.ndim == 2 and logits.stride(1) == 1 and logits.shape[1] > 0, "no logits")
        _need(len(logits) < 2 or logits.stride(0) >= logits.shape[1], "rows that lie upon each other")
        _need(targets.shape == logits.shape[:1] and targets.dtype is torch.int64 and targets.is_contiguous(), "no targets")
        if len(targets):
            least, most = (int(one) for one in torch.aminmax(targets))
            _need(0 <= least <= most < logits.shape[1], f"targets from {least} to {most}")
        losses = torch.empty(len(logits))
        pointers = (tensor.data_ptr() for tensor in (logits, targets, losses))
        self._run("loss", ctypes.byref(LossStruct(*pointers, logits.stride(0), *logits.shape, back)))
        return losses

    def norm(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """`x` (rows, width) over its root mean square, times `weight` (width,); and one over that: (rows,) in fp32."""
        _need(x.ndim == 2 and weight.shape == x.shape[1:], "a norm of other rows")
        self._need_plain(x, weight)
        out, scale = torch.empty_like(x), torch.empty(len(x))
        pointers = (x.data_ptr(), weight.data_ptr(), 0, 0, scale.data_ptr(), out.data_ptr())
        self._run("norm", ctypes.byref(NormStruct(*pointers, *x.shape, epsilon)))
        return out, scale

    def norm_back(self, grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, added: Tensor | None = None) -> Tensor:
        """The gradient of `x`, and `added` to it; `scale` is what `norm` gave."""
        _need(x.ndim == 2 and weight.shape == x.shape[1:] and grad.shape == x.shape, "a norm of other rows")
        _need(scale.shape == x.shape[:1] and scale.dtype is torch.float32 and scale.is_contiguous(), "other scales")
        _need(added is None or added.shape == x.shape, "a gradient of other rows")
        self._need_plain(x, weight, grad, *(() if added is None else (added,)))
        out = torch.empty_like(x)
        more = 0 if added is None else added.data_ptr()
        pointers = (x.data_ptr(), weight.data_ptr(), grad.data_ptr(), more, scale.data_ptr(), out.data_ptr())
        self._run("norm", ctypes.byref(NormStruct(*pointers, *x.shape, 0.0)))
        return out

    def gates(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, of one shape."""
        _need(gate.shape == up.shape, "gates of another shape")
        self._need_plain(gate, up)
        out = torch.empty_like(gate)
        self._run("gates", ctypes.byref(GatesStruct(gate.data_ptr(), up.data_ptr(), 0, out.data_ptr(), 0, 0, gate.numel())))
        return out

    def gates_back(self, grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of `gate` and `up`."""
        _need(gate.shape == up.shape == grad.shape, "gates of another shape")
        self._need_plain(gate, up, grad)
        outs = torch.empty_like(gate), torch.empty_like(up)
        pointers = [tensor.data_ptr() for tensor in (gate, up, grad)]
        self._run("gates", ctypes.byref(GatesStruct(*pointers, 0, *(out.data_ptr() for out in outs), gate.numel())))
        return outs

    def attention(
        self,
        given: Sequence[Tensor],
        made: Sequence[Tensor],
        segments: Segments,
        angles: Sequence[Tensor],
        scale: float,
    ) -> None:
        """Attention of each of some texts to itself.

        `given` is query (tokens, heads, width), key and value (tokens, heads of keys, width), and `made` the output in the
        query's shape. With the output's gradient as a fourth of `given`, `made` is the gradients of the first three. Query and
        key are rotated (RoPE) by angles, if there are any; `angles` are their cosines and sines, (tokens, width / 2), of one
        stride.
        """
        (tokens, heads, width), texts = given[0].shape, len(segments.starts) - 1
        _need(len(given) in (3, 4) and self.attends(given[0], given[1], given[2], angles), "heads that do not attend")
        _need(segments.tokens == tokens, f"texts of {segments.tokens} tokens in a row of {tokens}")
        _need(all(one.shape == given[0].shape for one in given[3:]), "a gradient of another shape")
        wanted = given[:1] if len(given) == 3 else given[:3]
        _need([one.shape for one in made] == [one.shape for one in wanted], "no room for what is made")
        self._need_plain(*given, *made)
        pointers = [tensor.data_ptr() for tensor in given] + [0] * (4 - len(given))
        pointers += [angle.data_ptr() for angle in angles] or [0, 0]
        outs = [tensor.data_ptr() for tensor in made]
        pointers += [0, *outs] if len(given) == 4 else [*outs, 0, 0, 0]
        back = torch.empty((2, heads, tokens, -(-width // _PANEL) * _PANEL) if len(given) == 4 else 0)
        pointers += [segments.starts.data_ptr(), back.data_ptr()]
        stride = angles[0].stride(0) if angles else 0
        shape = (texts, heads, given[1].shape[1], width, scale)
        call = AttentionStruct(*pointers, 0, stride, 0, *shape)
        call.scratch_bytes = self._attention_scratch(ctypes.byref(call), segments.longest)
        scratch = torch.empty(call.scratch_bytes * torch.get_num_threads() + _LINE_BYTES, dtype=torch.uint8)
        call.scratch = scratch.data_ptr() + -scratch.data_ptr() % _LINE_BYTES
        self._run("attention", ctypes.byref(call))

    def _need_plain(self, *tensors: Tensor) -> None:
        _need(self._supports(*tensors) and all(tensor.is_contiguous() for tensor in tensors), "a tensor that is not plain")

    def _run(self, call: str, *arguments: Any) -> None:
        self._team.wanted = torch.get_num_threads()
        self._loaded[call](self._team_address, *arguments)


def _need(right: bool, otherwise: str) -> None:
    if not right:
        raise ValueError(f"our own library cannot compute with {otherwise}")


@functools.lru_cache(maxsize=len(_FORMATS))
def _kernels(dtype: torch.dtype) -> Kernels | None:
    loaded = train_library(cache_path(), _FORMATS[dtype])
    if loaded is None or not loaded.smolora_trains():
        return None
    try:
        return Kernels(loaded, dtype)
    except (OSError, AttributeError) as error:
        log.info("torch trains without our own library: %s", error)
        return None


def kernels(*tensors: Tensor) -> Kernels | None:
    """The library's calls, if they are there, for tensors such as these, of which there is one."""
    dtype = tensors[0].dtype
    fit = dtype in _FORMATS and all(tensor.dtype is dtype and tensor.device.type == "cpu" for tensor in tensors)
    return _kernels(dtype) if fit else None


def compile_kernels(dtype: torch.dtype) -> None:
    """Has the library ready for tensors of this dtype on the CPU."""
    if dtype in _FORMATS:
        _kernels(dtype)
