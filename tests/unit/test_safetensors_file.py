"""The reader of headers: it says what the safetensors library says, and refuses what the library refuses."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from smolorad.errors import Damaged
from smolorad.safetensors_file import SafetensorsFile, tensors_in

ADVICE = "get it again"
SIZES = {"F32": 4, "BF16": 2, "I64": 8, "BOOL": 1, "F8_E4M3": 1}
_SHAPES = st.lists(st.integers(0, 4), max_size=3)
_TENSORS = st.dictionaries(
    st.text("abé.", min_size=1, max_size=4), st.tuples(st.sampled_from(sorted(SIZES)), _SHAPES), max_size=4
)


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def file_with(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (format, shape) in tensors.items():
        begin, end = end, end + SIZES[format] * int(np.prod(shape, dtype=int))
        header[name] = {"dtype": format, "shape": shape, "data_offsets": [begin, end]}  # type: ignore[assignment]
    return file_of(header, bytes(range(256)) * (end // 256) + bytes(range(end % 256)))


def ours(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    return {one.name: (one.format, list(one.shape), content[one.begin : one.end]) for one in tensors_in(content, "f", ADVICE)}


def theirs(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    return {name: (one["dtype"], one["shape"], bytes(one["data"])) for name, one in deserialize(content)}


@given(_TENSORS)
def test_what_the_library_reads(tensors: dict[str, tuple[str, list[int]]]) -> None:
    content = file_with(tensors)
    assert ours(content) == theirs(content)


@settings(max_examples=600)
@given(tensors=_TENSORS, data=st.data())
def test_damage_is_refused_as_the_library_refuses_it(tensors: dict[str, tuple[str, list[int]]], data: st.DataObject) -> None:
    content = bytearray(file_with(tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["set", "cut", "add"])):
            case "set":
                content[at] = data.draw(st.one_of(st.sampled_from(b'0129-[]{}",: '), st.integers(0, 255)))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 9))]
            case "add":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        if not content:
            break
    damaged = bytes(content)
    assume(b"-0" not in damaged)  # the library takes it for a fraction, Python for 0
    try:
        expected = theirs(damaged)
    except SafetensorError:
        with pytest.raises(Damaged, match=r"^f is cut short or damaged \(.*\); get it again\.$"):
            tensors_in(damaged, "f", ADVICE)
        return
    assert ours(damaged) == expected


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no header": struct.pack("<Q", 0),
    "a header longer than the file": struct.pack("<Q", 2**63) + b"{}",
    "a list": file_of([]),
    "no JSON": file_of(b"{a}"),
    "a space first": file_of(b" {}"),
    "notes that are no texts": file_of({"__metadata__": {"format": 1}}),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "nested without end": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "half of a character": file_of(b'{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
    "no place": file_of({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "an unknown format": file_of({"a": ONE | {"dtype": "X32"}}, bytes(8)),
    "a format with more behind its name": file_of({"a": ONE | {"dtype": "F32x"}}, bytes(8)),
    "a format that cannot be printed": file_of({"a": ONE | {"dtype": "F\n\x00"}}, bytes(8)),
    "a name that cannot be printed": file_of({"a\n\x1b": ONE | {"shape": [3]}}, bytes(8)),
    "a shape of fractions": file_of({"a": ONE | {"shape": [2.0]}}, bytes(8)),
    "a shape of flags": file_of({"a": ONE | {"shape": [2, True]}}, bytes(8)),
    "a negative length": file_of({"a": ONE | {"shape": [-2, -1]}}, bytes(8)),
    "a length without measure": file_of({"a": ONE | {"shape": [0, 10**30], "data_offsets": [0, 0]}}),
    "lengths without measure together": file_of({"a": ONE | {"shape": [3, 2**62, 0], "data_offsets": [0, 0]}}),
    "a length that no array has beside a 0": file_of({"a": ONE | {"shape": [0, 2**62], "data_offsets": [0, 0]}}),
    "a hundred dimensions": file_of({"a": ONE | {"shape": [2] + [1] * 100}}, bytes(8)),
    "fewer bytes than its shape": file_of({"a": ONE | {"shape": [3]}}, bytes(8)),
    "half a byte": file_of({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, bytes(2)),
    "a gap": file_of({"a": ONE, "b": ONE | {"data_offsets": [12, 20]}}, bytes(20)),
    "one over the other": file_of({"a": ONE, "b": ONE | {"data_offsets": [4, 12]}}, bytes(12)),
    "bytes behind the last": file_of({"a": ONE}, bytes(9)),
    "bytes that are not there": file_of({"a": ONE}, bytes(7)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_safetensors_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BROKEN[what])
    with pytest.raises(Damaged, match=r"model\.safetensors is cut short or damaged \(.*\); get it again\.$") as caught:
        SafetensorsFile.open(path, ADVICE)
    assert caught.value.message.isprintable()
    with pytest.raises(Damaged, match=r"^its weights is cut short"):
        SafetensorsFile.open(path, ADVICE, shown="its weights")


def test_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays = {"b": np.ones((2, 3), np.float16), "a": np.zeros((), np.float32), "c": np.zeros((0, 4), np.float32)}
    save_file(arrays, path, {"format": "pt"})
    found = SafetensorsFile.open(path, ADVICE)
    assert {one.name: one.shape for one in found.tensors} == {name: array.shape for name, array in arrays.items()}
    assert {one.name: one.count for one in found.tensors} == {"a": 1, "b": 6, "c": 0}
    with safe_open(path, framework="numpy") as file:
        assert [one.name for one in found.tensors] == file.offset_keys()


@pytest.mark.parametrize("notes", [None, {}, {"format": "pt", "é": "日"}])
def test_notes_that_the_library_reads(notes: object) -> None:
    content = file_of({"__metadata__": notes, "a": ONE}, bytes(8))
    assert ours(content) == theirs(content)


def test_a_file_that_is_written_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones(3, np.float32)}, path)
    found = SafetensorsFile.open(path, ADVICE)
    with path.open("rb") as file:
        assert found.is_open_as(file)
    other = tmp_path / "other.safetensors"
    save_file({"a": np.ones(3, np.float32)}, other)
    other.rename(path)
    with path.open("rb") as file:
        assert not found.is_open_as(file)
