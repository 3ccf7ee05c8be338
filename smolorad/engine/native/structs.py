"""The structures of the C, as Python mirrors them, and the check that both lay them out alike.

A mirror has the name of its structure in C and `Struct` behind it, and the same fields in the same order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence

from smolorad.engine.native.description import NORMS, PROJECTIONS
from smolorad.errors import Internal

Pointer = ctypes.c_void_p
Field = tuple[str, type]


def _fields(kind: type, *names: str) -> Iterator[Field]:
    return ((name, kind) for name in names)


class MatrixStruct(ctypes.Structure):
    """Of a `library.Matrix`."""

    _fields_ = (("values", Pointer), *_fields(ctypes.c_int32, "format", "rows", "cols"))


class ModelNormStruct(ctypes.Structure):
    _fields_ = (
        *_fields(Pointer, "weight", "bias"),
        *_fields(ctypes.c_int32, "kind", "width", "head_step"),
        ("eps", ctypes.c_float),
    )


class RopeStruct(ctypes.Structure):
    _fields_ = (
        ("inverse_frequencies", Pointer),
        *_fields(ctypes.c_int32, "pairs", "interleaved"),
        ("scale", ctypes.c_float),
    )


class ExpertStruct(ctypes.Structure):
    _fields_ = tuple(_fields(MatrixStruct, "gate", "up", "down"))


class LayerStruct(ctypes.Structure):
    _fields_ = (
        ("weight", MatrixStruct * len(PROJECTIONS)),
        ("bias", Pointer * len(PROJECTIONS)),
        *_fields(ModelNormStruct, *NORMS),
        ("router", MatrixStruct),
        ("expert", ctypes.POINTER(ExpertStruct)),
        *_fields(ctypes.c_int32, "rope", "window"),
    )


class ModelStruct(ctypes.Structure):
    _fields_ = (
        *_fields(ctypes.c_int32, "layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab"),
        *_fields(ctypes.c_int32, "format", "cache_format"),
        *_fields(ctypes.c_int32, "qkv_width", "group_step", "key", "key_step", "value", "value_step"),
        *_fields(ctypes.c_int32, "activation", "parallel", "joint_norms", "ropes", "first_position", "rounded_slopes"),
        *_fields(ctypes.c_int32, "experts", "active_experts", "normalized_experts"),
        *_fields(ctypes.c_float, "embedding_scale", "residual_scale", "attention_scale", "score_cap", "slope_scale"),
        *_fields(ctypes.c_float, "logit_scale", "logit_cap"),
        *_fields(Pointer, "embedding", "positions"),
        *_fields(ModelNormStruct, "embedding_norm", "final_norm"),
        ("head", MatrixStruct),
        ("head_bias", Pointer),
        ("rope", ctypes.POINTER(RopeStruct)),
        ("slopes", Pointer),
        ("layer", ctypes.POINTER(LayerStruct)),
    )


class LoraStruct(ctypes.Structure):
    _fields_ = (*_fields(Pointer, "a", "b"), ("rank", ctypes.c_int32), ("scale", ctypes.c_float))


class SequenceStruct(ctypes.Structure):
    _fields_ = (
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        *_fields(ctypes.c_int32, "count", "position", "capacity"),
        *_fields(ctypes.POINTER(Pointer), "keys", "values"),
        ("lora", ctypes.POINTER(LoraStruct)),
        *_fields(ctypes.c_int32, "every", "first_rope"),
    )


class TeamStruct(ctypes.Structure):
    _fields_ = (*_fields(Pointer, "parallel", "thread", "threads"), ("wanted", ctypes.c_uint))


class TermStruct(ctypes.Structure):
    _fields_ = (
        *_fields(Pointer, "x", "w"),
        *_fields(ctypes.c_int64, "x_stride", "w_stride"),
        *_fields(ctypes.c_int32, "depth", "transposed"),
    )


class ProductStruct(ctypes.Structure):
    _fields_ = (
        *_fields(Pointer, "out", "added", "partial"),
        *_fields(ctypes.c_int64, "out_stride", "added_stride", "partial_stride"),
        *_fields(ctypes.c_int32, "rows", "columns", "format", "terms"),
        ("term", Pointer),
    )


class LossStruct(ctypes.Structure):
    _fields_ = (
        *_fields(Pointer, "logits", "targets", "losses"),
        ("stride", ctypes.c_int64),
        *_fields(ctypes.c_int32, "rows", "vocabulary", "with_gradient"),
    )


class NormStruct(ctypes.Structure):
    _fields_ = (
        *_fields(Pointer, "x", "weight", "grad", "added", "scale", "out"),
        *_fields(ctypes.c_int32, "rows", "width"),
        ("epsilon", ctypes.c_float),
    )


class GatesStruct(ctypes.Structure):
    _fields_ = (*_fields(Pointer, "gate", "up", "grad", "out", "d_gate", "d_up"), ("count", ctypes.c_int64))


class AttentionStruct(ctypes.Structure):
    _fields_ = (
        *_fields(Pointer, "query", "key", "value", "grad", "cos", "sin", "out", "d_query", "d_key", "d_value"),
        *_fields(Pointer, "start", "head_gradients", "scratch"),
        *_fields(ctypes.c_int64, "angle_stride", "scratch_bytes"),
        *_fields(ctypes.c_int32, "texts", "heads", "key_heads", "width"),
        ("scale", ctypes.c_float),
    )


DECODE_STRUCTS = (
    MatrixStruct,
    ModelNormStruct,
    RopeStruct,
    ExpertStruct,
    LayerStruct,
    ModelStruct,
    LoraStruct,
    SequenceStruct,
)
TRAIN_STRUCTS = (TeamStruct, TermStruct, ProductStruct, LossStruct, NormStruct, GatesStruct, AttentionStruct)


class _Layout(ctypes.Structure):
    """An entry of `smolora_structs`: the size of a structure and the offset of its last field, in bytes."""

    _fields_ = (("name", ctypes.c_char_p), *_fields(ctypes.c_int32, "size", "last_offset"))


def check_structs(loaded: ctypes.CDLL, mirrors: Sequence[type[ctypes.Structure]]) -> None:
    """Raises Internal unless the library has these structures, each laid out as its mirror: C would read other fields."""
    function = loaded.smolora_structs
    function.restype, function.argtypes = ctypes.POINTER(_Layout), ()
    compiled = dict(_compiled(function()))
    mirrored = {mirror.__name__.removesuffix("Struct"): _mirrored(mirror) for mirror in mirrors}
    if compiled != mirrored:
        odd = min(name for name, _ in compiled.items() ^ mirrored.items())
        raise Internal(
            f"The native library lays out {odd} as {_said(compiled.get(odd))}, but Python as {_said(mirrored.get(odd))}, "
            "so the library is not used. This is a bug in smolora; please report it."
        )


def _compiled(table: ctypes._Pointer[_Layout]) -> Iterable[tuple[str, tuple[int, int]]]:
    at = 0
    while table[at].name:
        yield table[at].name.decode(), (table[at].size, table[at].last_offset)
        at += 1


def _mirrored(mirror: type[ctypes.Structure]) -> tuple[int, int]:
    return ctypes.sizeof(mirror), getattr(mirror, mirror._fields_[-1][0]).offset


def _said(layout: tuple[int, int] | None) -> str:
    return "nothing" if layout is None else f"{layout[0]} bytes, with the last field at byte {layout[1]}"
