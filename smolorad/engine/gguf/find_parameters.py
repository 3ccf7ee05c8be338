"""Finds what each of transformers' parameters is made of in GGUF files.

Names are those of the gguf library's table. What the converters of llama.cpp reorder, join or split is undone here by rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from gguf import quants
from gguf.constants import MODEL_ARCH_NAMES, GGMLQuantizationType
from gguf.tensor_mapping import TensorNameMap, get_tensor_name_map

from smolorad.engine.gguf.architectures import Architecture, head_dim
from smolorad.engine.gguf.header import GgufHeader, GgufTensor
from smolorad.engine.gguf.layout import File, Layout, Parameter, Part, Source
from smolorad.engine.gguf.metadata import Metadata
from smolorad.engine.gguf.rope import FREQUENCIES, LONG, SHORT
from smolorad.errors import Damaged, UnsupportedModel, printable

Shapes = Mapping[str, Sequence[int]]
_Type = GGMLQuantizationType

_COMPUTED = frozenset({FREQUENCIES, LONG, SHORT})  # they are in the config
_EXACT = {_Type.F32: "F32", _Type.F16: "F16", _Type.BF16: "BF16"}
_QUANTIZED = "BF16"  # the format that their numbers are kept in where they are written anew
_EXPERTS = re.compile(r".*layers\.(?P<layer>\d+)\..*experts\.(?P<kind>gate_up_proj|down_proj)")
_HEAD_NORM = re.compile(r".*layers\.(?P<layer>\d+)\.self_attn\.(?P<kind>[qk])_layernorm\.norms\.(?P<head>\d+)\.weight")
_HEADS = re.compile(r".*layers\.(?P<layer>\d+)\.self_attn\.(?P<kind>[qkv])_proj\.(?P<suffix>weight|bias)")
_GROUPED = re.compile(r".*(?:layers|h)\.(?P<layer>\d+)\.(?:self_)?attention\.query_key_value\.(?P<suffix>weight|bias)")
_LINEAR_TRANSPOSED = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")
_HEADS_OF_MODELS = ("lm_head", "embed_out")
_OUTPUT_BIAS = re.compile(r".*\.self_attn\.o_proj\.bias")


def make_layout(
    headers: Sequence[GgufHeader], sums: Sequence[str], m: Metadata, architecture: Architecture, shapes: Shapes
) -> Layout:
    """The layout of files whose model has parameters of these `shapes`; `sums` are the files' SHA-256.

    Raises Damaged where a parameter cannot be made of the tensors, UnsupportedModel for tensors that the class does not have,
    or numbers that the gguf library does not decode.
    """
    found = {tensor.name: (at, tensor) for at, header in enumerate(headers) for tensor in header.tensors}
    finder = _Finder(m, architecture, {name: tensor for name, (_, tensor) in found.items()})
    parameters = {name: finder.parameter(name, tuple(shape)) for name, shape in shapes.items()}
    used = {part.tensor for parameter in parameters.values() for part in parameter.parts}
    if extra := sorted(found.keys() - used - _COMPUTED):
        raise UnsupportedModel(
            f"{m.path} has the tensor {printable(extra[0])}, and {architecture.class_name} has none like it; "
            "load the model that it was made from."
        )
    files = [File(str(one.path), one.size, one.version, digest) for one, digest in zip(headers, sums, strict=True)]
    return Layout(tuple(files), {name: _source(*found[name], m) for name in sorted(used)}, parameters)


def _source(file: int, tensor: GgufTensor, m: Metadata) -> Source:
    if not (tensor.type in _EXACT or _is_decoded(tensor.type)):
        raise UnsupportedModel(
            f"{m.path} has {printable(tensor.name)} as {tensor.type.name}, which the gguf library does not decode; "
            "choose a file in another quantisation, such as Q8_0 or Q4_K_M."
        )
    rows, columns = _rows(tensor)
    return Source(file, int(tensor.type), tensor.begin, rows, columns, tensor.nbytes // rows)


def _is_decoded(type: GGMLQuantizationType) -> bool:
    return type in quants._type_traits


def _rows(tensor: GgufTensor) -> tuple[int, int]:
    """Rows and columns; a vector has rows of one number, if it is not packed."""
    if len(tensor.shape) == 1:
        return (tensor.shape[0], 1) if tensor.type in _EXACT else (1, tensor.shape[0])
    return tensor.rows, tensor.columns


def _short(module: str) -> str:
    """A module's name as the library's table has that of some classes."""
    return module.removeprefix("transformer.")


class _Finder:
    """Finds what each parameter is made of."""

    def __init__(self, m: Metadata, architecture: Architecture, tensors: Mapping[str, GgufTensor]) -> None:
        self._m = m
        self._architecture = architecture
        self._tensors = tensors
        kind = next(one for one, name in MODEL_ARCH_NAMES.items() if name == m.architecture)
        self._names: TensorNameMap = get_tensor_name_map(kind, m.whole("block_count"))
        self._special: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Iterator[Part] | None]], ...] = (
            (_EXPERTS, self._experts),
            (_HEAD_NORM, self._head_norm),
            (_HEADS, self._heads),
            (_GROUPED, self._grouped),
        )

    def parameter(self, name: str, shape: tuple[int, ...]) -> Parameter:
        """What `name` is made of."""
        parts = tuple(self._parts(name))
        transposed = self._architecture.transposed and _LINEAR_TRANSPOSED.fullmatch(name) is not None
        self._check(name, shape[::-1] if transposed else shape, parts)
        formats = {_EXACT.get(self._tensors[part.tensor].type, _QUANTIZED) for part in parts}
        offset = self._architecture.norm_offset if name.endswith("norm.weight") else 0.0
        return Parameter(shape, formats.pop() if len(formats) == 1 else _QUANTIZED, parts, offset, transposed)

    def _parts(self, name: str) -> Iterator[Part]:
        for pattern, find in self._special:
            if (match := pattern.fullmatch(name)) and (parts := find(match)) is not None:
                return parts
        stem, dot, suffix = name.rpartition(".")
        theirs = "output" if stem in _HEADS_OF_MODELS else self._names.get_name(stem) or self._names.get_name(_short(stem))
        tensor = f"{theirs}{dot}{suffix}"
        if theirs is None or tensor not in self._tensors:
            if _OUTPUT_BIAS.fullmatch(name) and self._architecture.model_type == "llama":
                return iter(())  # transformers has four biases or none, and files may have three
            raise self._lacks(name)
        return iter([self._whole(tensor)])

    def _whole(self, tensor: str, pairs: int = 0) -> Part:
        return Part(tensor, 0, _rows(self._tensors[tensor])[0], pairs)

    def _experts(self, match: re.Match[str]) -> Iterator[Part]:
        """Those of a layer stand in one tensor for each kind; transformers has each expert's gate above its up."""
        kinds = ["ffn_down_exps"]
        if match["kind"] == "gate_up_proj":
            kinds = ["ffn_gate_up_exps"] if self._has(match, "ffn_gate_up_exps") else ["ffn_gate_exps", "ffn_up_exps"]
        tensors = [f"blk.{match['layer']}.{kind}.weight" for kind in kinds]
        if absent := [tensor for tensor in tensors if tensor not in self._tensors]:
            raise self._lacks(absent[0])
        experts = self._tensors[tensors[0]].shape[0]
        counts = [_rows(self._tensors[tensor])[0] // experts for tensor in tensors]
        return (Part(name, at * n, n) for at in range(experts) for name, n in zip(tensors, counts, strict=True))

    def _head_norm(self, match: re.Match[str]) -> Iterator[Part]:
        tensor = f"blk.{match['layer']}.attn_{match['kind']}_norm.weight"
        if tensor not in self._tensors:
            raise self._lacks(tensor)
        return iter([Part(tensor, int(match["head"]), 1)])

    def _heads(self, match: re.Match[str]) -> Iterator[Part] | None:
        """Queries, keys or values, which may stand in one tensor; None where there is nothing special about them."""
        kind, own = match["kind"], f"blk.{match['layer']}.attn_{match['kind']}.{match['suffix']}"
        joined = f"blk.{match['layer']}.attn_qkv.{match['suffix']}"
        pairs = head_dim(self._m) // 2 if self._architecture.halves and kind != "v" else 0
        if own in self._tensors:
            return iter([self._whole(own, pairs)]) if pairs else None
        if joined not in self._tensors:
            return None
        queries, keys = self._widths()
        first = {"q": 0, "k": queries, "v": queries + keys}[kind]
        return iter([Part(joined, first, queries if kind == "q" else keys, pairs)])

    def _grouped(self, match: re.Match[str]) -> Iterator[Part]:
        """For each key head its queries, the key and the value; in the file all queries, then all keys, then all values."""
        tensor = f"blk.{match['layer']}.attn_qkv.{match['suffix']}"
        if tensor not in self._tensors:
            raise self._lacks(tensor)
        width = head_dim(self._m)
        queries, keys = self._widths()
        if queries + 2 * keys != _rows(self._tensors[tensor])[0]:  # before as many parts are made as the file claims
            raise self._misfit(match[0], (queries + 2 * keys,), self._tensors[tensor])
        step = queries // max(keys // width, 1)
        for group in range(keys // width):
            yield Part(tensor, group * step, step)
            yield Part(tensor, queries + group * width, width)
            yield Part(tensor, queries + keys + group * width, width)

    def _widths(self) -> tuple[int, int]:
        """The rows of all queries, and of all keys."""
        heads = self._m.whole("attention.head_count")
        default = 1 if self._m.architecture == "falcon" else heads
        return heads * head_dim(self._m), self._m.whole("attention.head_count_kv", default) * head_dim(self._m)

    def _has(self, match: re.Match[str], kind: str) -> bool:
        return f"blk.{match['layer']}.{kind}.weight" in self._tensors

    def _check(self, name: str, shape: tuple[int, ...], parts: Sequence[Part]) -> None:
        columns = shape[-1] if len(shape) > 1 else 1
        wanted, count = math.prod(shape) // max(columns, 1), 0
        for part in parts:
            tensor = self._tensors[part.tensor]
            rows, width = _rows(tensor)
            if len(shape) == 1 and rows != 1 and width != 1:  # a row is the vector
                columns, wanted = width, 1
            elif len(shape) == 1 and rows == 1:
                columns, wanted = width, math.prod(shape) // max(width, 1)
            fits = part.first >= 0 and part.first + part.count <= rows and width == columns
            if not fits or (part.pairs and part.count % (2 * part.pairs)):
                raise self._misfit(name, shape, tensor)
            count += part.count
        if parts and count != wanted:
            raise self._misfit(name, shape, self._tensors[parts[0].tensor])

    def _lacks(self, name: str) -> Damaged:
        return Damaged(
            f"{self._m.path} has no tensor for {name}, which {self._architecture.class_name} needs; download it again."
        )

    def _misfit(self, name: str, shape: Sequence[int], tensor: GgufTensor) -> Damaged:
        found = f"{printable(tensor.name)} in the shape {list(tensor.shape)}"
        return Damaged(f"{self._m.path} has {found}, which cannot be {name} with {list(shape)}; download it again.")
