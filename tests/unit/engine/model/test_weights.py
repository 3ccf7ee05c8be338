"""A model's weights without torch: where safetensors says that they are."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from smolorad.domain import Dtype
from smolorad.engine.model import weights
from smolorad.engine.model.weights import read_weights, row_sources
from smolorad.errors import Damaged, NotFound
from smolorad.safetensors_file import SafetensorsFile

FORMATS = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "BOOL": "?", "U8": "u1", "F64": "<f8"}


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], order: list[str], padding: int) -> dict[str, np.ndarray]:
    """A file whose tensors lie in an order of their own, and their header in another."""
    random, places, data, numbers = np.random.default_rng(0), {}, b"", {}
    for name in order:
        format, shape = tensors[name]
        numbers[name] = (random.normal(size=shape) * 4).astype(FORMATS[format])
        begin, data = len(data), data + numbers[name].tobytes()
        places[name] = {"dtype": format, "shape": shape, "data_offsets": [begin, len(data)]}
    header = json.dumps({"__metadata__": {"format": "pt"}} | {name: places[name] for name in tensors}).encode() + b" " * padding
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return numbers


_NAMES = st.text(st.sampled_from("abcz_.0\u00e9"), min_size=1, max_size=6)
_SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)


@given(
    tensors=st.dictionaries(_NAMES, st.tuples(st.sampled_from(sorted(FORMATS)), _SHAPES), min_size=1, max_size=6),
    data=st.data(),
    padding=st.integers(0, 9),
)
def test_what_lies_between_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[str, tuple[int, ...]]],
    data: st.DataObject,
    padding: int,
) -> None:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    numbers = write(path, tensors, data.draw(st.permutations(sorted(tensors))), padding)
    file = SafetensorsFile.open(path, "")
    assert {tensor.name: (tensor.format, tensor.shape) for tensor in file.tensors} == tensors
    wanted = {name: shape for name, (format, shape) in tensors.items() if format in ("F32", "F16")}
    read = read_weights([file], wanted, Dtype.FLOAT32).arrays
    theirs = load_file(path)
    for name in wanted:
        assert np.array_equal(read[name], numbers[name].astype(np.float32))
        assert np.array_equal(read[name], theirs[name].astype(np.float32))


def test_a_header_that_lies_is_refused_where_the_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, {"a": ("F32", (4,)), "b": ("F32", (4,))}, ["a", "b"], 0)
    whole = path.read_bytes()
    for wrong in (
        whole[:-1],
        whole.replace(b"[16, 32]", b"[20, 32]"),
        whole.replace(b"[16, 32]", b"[ 0, 16]"),
        whole.replace(b'"b"', b'"a"'),
        b"\xff" * 8 + whole[8:],
        whole[:8],
    ):
        path.write_bytes(wrong)
        with pytest.raises(Damaged):
            read_weights([SafetensorsFile.open(path, "")], {"a": (4,), "b": (4,)}, Dtype.FLOAT32)


def test_a_file_that_is_replaced_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "model.safetensors", tmp_path / "other.safetensors"
    write(path, {"a": ("F32", (4,)), "b": ("F32", (4,))}, ["a", "b"], 0)
    file = SafetensorsFile.open(path, "")
    write(other, {"a": ("F32", (4,)), "b": ("F32", (4,))}, ["b", "a"], 0)  # as large, in another order
    other.rename(path)
    with pytest.raises(Damaged, match="changed or cut short while it was read"):
        read_weights([file], {"a": (4,), "b": (4,)}, Dtype.FLOAT32)


def test_a_file_that_changes_between_two_pieces_of_a_tensor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_CHUNK", 8)
    path = tmp_path / "model.safetensors"
    write(path, {"a": ("F32", (4, 4))}, ["a"], 0)
    source = row_sources([SafetensorsFile.open(path, "")], {"a": (4, 4)}, Dtype.FLOAT32, sources={})["a"]
    rows = source.rows(0, 4)
    next(rows)
    with path.open("r+b") as file:  # the same file, of the same size
        file.seek(-16, os.SEEK_END)
        file.write(bytes(16))
    os.utime(path, ns=(1, 1))  # the system's clock is coarse
    with pytest.raises(Damaged, match="changed or cut short while it was read"):
        next(rows)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_file_that_is_gone(tmp_path: Path, *, is_mapped: bool) -> None:
    path = tmp_path / "model.safetensors"
    write(path, {"a": ("F32", (4,))}, ["a"], 0)
    file = SafetensorsFile.open(path, "")
    path.unlink()
    with pytest.raises(NotFound, match=r"model\.safetensors is gone; bring it back"):
        read_weights([file], {"a": (4,)}, Dtype.FLOAT32, mapped_below=tmp_path / "mapped" if is_mapped else None)


@pytest.mark.parametrize("format", ["F32", "F16"])
def test_a_transposed_matrix_of_many_pieces(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_CHUNK", 5)
    path = tmp_path / "model.safetensors"
    numbers = write(path, {"a": (format, (4, 8))}, ["a"], 0)["a"].astype(np.float32)
    file = SafetensorsFile.open(path, "")
    found = read_weights([file], {"a": (4, 8)}, Dtype.FLOAT32, transposed=["a"]).arrays["a"]
    assert np.array_equal(found, numbers)
    source = row_sources([file], {"a": (4, 8)}, Dtype.FLOAT32, sources={}, transposed=["a"])["a"]
    assert np.array_equal(np.concatenate([piece.copy() for piece in source.rows(0, 8)]), numbers.T)
