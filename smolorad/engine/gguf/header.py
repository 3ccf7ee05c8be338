"""The header of a GGUF file: what the file says about itself, and where each tensor lies.

Everything that a header counts is compared with the bytes that the file has, before anything is allocated: files come from
anywhere. Layout (ggml's docs/gguf.md): magic, version, number of tensors, number of keys; the keys with typed values; for each
tensor its name, dimensions, type and offset; then, aligned, the tensors' bytes.
"""

from __future__ import annotations

import math
import os
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from smolorad.errors import Damaged, SmoloraError, UnsupportedModel, printable
from smolorad.gguf import MAGIC
from smolorad.safetensors_file import version_of

_VERSIONS = (2, 3)
_ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 4096
_MAX_HEADER_BYTES = 2**29
_MAX_ELEMENTS = 2**24  # of all arrays together; the largest vocabularies have half a million tokens
_STRING, _ARRAY, _BOOL = 8, 9, 7
# The types of values, by number: as `struct` and `array` name them.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_SMALLEST_KEY, _SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8  # bytes


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor in a file."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]  # rows first, as in transformers
    begin: int  # bytes from the beginning of the file
    nbytes: int

    @property
    def columns(self) -> int:
        """The length of a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """The number of rows, of all dimensions together."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says about itself."""

    path: Path
    metadata: Mapping[str, Any]  # str, int, float, bool, or a list of one of these
    tensors: tuple[GgufTensor, ...]
    size: int  # bytes of the file
    version: tuple[int, ...]  # changes when the file is replaced or written

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads a header. Raises Damaged, and UnsupportedModel for a version, byte order or number format that is not read."""
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            try:
                metadata, tensors = _Reader(file, stat.st_size).read()
            except (ValueError, EOFError) as error:
                raise Damaged(f"{path} is cut short or damaged ({error}); download it again.") from error
            except _NotRead as reason:
                raise UnsupportedModel(f"{path} {reason}.") from reason
        return cls(path, metadata, tensors, stat.st_size, version_of(stat))


class _NotRead(Exception):
    """Why a whole file is not read."""


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._most = min(size, _MAX_HEADER_BYTES)
        self._elements = 0

    def read(self) -> tuple[dict[str, Any], tuple[GgufTensor, ...]]:
        if self._take(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin as a GGUF file")
        version = self._number("I")
        if version not in _VERSIONS:
            raise _version_error(version)
        tensor_count, key_count = self._number("Q"), self._number("Q")
        if tensor_count * _SMALLEST_TENSOR + key_count * _SMALLEST_KEY > self._size:
            raise ValueError(f"it is too small for {tensor_count:,} tensors and {key_count:,} keys")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._name()
            if key in metadata:
                raise ValueError(f"it has {printable(key)} twice")
            metadata[key] = self._value(self._number("I"))
        described = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get(_ALIGNMENT, _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 2**16:
            raise ValueError(f"its alignment is {printable(str(alignment))}")
        return metadata, self._placed(described, alignment)

    def _take(self, count: int) -> bytes:
        if self._file.tell() + count > self._most:
            if self._most < self._size:
                raise ValueError("its header is longer than 512 MB")
            raise EOFError("it ends in its header")
        found = self._file.read(count)
        if len(found) != count:
            raise EOFError("it ends in its header")
        return found

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]

    def _string(self) -> str:
        return self._take(self._number("Q")).decode("utf-8")

    def _name(self) -> str:
        length = self._number("Q")
        if not 0 < length <= _MAX_NAME_BYTES:
            raise ValueError(f"one of its names has {length:,} bytes")
        return self._take(length).decode("utf-8")

    def _value(self, kind: int) -> Any:
        match kind:
            case 8:
                return self._string()
            case 9:
                return self._array()
        return self._number(_code(kind))

    def _array(self) -> list[Any]:
        kind, count = self._number("I"), self._number("Q")
        self._elements += count
        if self._elements > _MAX_ELEMENTS:
            raise ValueError(f"its lists have more than {_MAX_ELEMENTS:,} entries")
        if kind == _ARRAY:
            raise ValueError("it has lists of lists")
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        code = _code(kind)
        return list(struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(f"<{code}"))))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._name(), self._number("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"{printable(name)} has {dimensions:,} dimensions")
        lengths = array("Q", struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions)))
        return name, tuple(reversed(lengths)), self._number("I"), self._number("Q")

    def _placed(self, described: list[tuple[str, tuple[int, ...], int, int]], alignment: int) -> tuple[GgufTensor, ...]:
        """The tensors in the order of their bytes; raises ValueError where these overlap, or lie beyond the file's end."""
        if len({name for name, *_ in described}) < len(described):
            raise ValueError("it has two tensors of one name")
        begin = -(-self._file.tell() // alignment) * alignment
        tensors = [_placed(*one, begin, alignment) for one in described]
        tensors.sort(key=lambda one: one.begin)
        end = begin
        for tensor in tensors:
            if tensor.begin < end:
                raise ValueError(f"{printable(tensor.name)} overlaps the tensor before it")
            end = tensor.begin + tensor.nbytes
            if end > self._size:
                raise ValueError(f"it has {self._size:,} bytes, and {printable(tensor.name)} ends at {end:,}")
        return tuple(tensors)


def _placed(name: str, shape: tuple[int, ...], kind: int, offset: int, begin: int, alignment: int) -> GgufTensor:
    try:
        type = GGMLQuantizationType(kind)
        block, block_bytes = GGML_QUANT_SIZES[type]
    except (ValueError, KeyError) as error:
        raise _NotRead(
            f"has numbers in a format that this release does not know (number {kind} of ggml, in {printable(name)}); "
            "choose a file in another quantisation, such as Q8_0 or Q4_K_M"
        ) from error
    if min(shape) < 1 or math.prod(shape) >= 2**62 or shape[-1] % block or offset % alignment:
        raise ValueError(f"{printable(name)} has a shape or a place that no {type.name} tensor has")
    return GgufTensor(name, type, shape, begin + offset, math.prod(shape) // block * block_bytes)


def _code(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"it has a value of the unknown type {kind:,}")
    return _NUMBERS[kind]


def _version_error(version: int) -> Exception:
    if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
        return _NotRead(
            "is written for machines of the other byte order (big-endian); choose the usual file, or convert it with "
            "`gguf-convert-endian FILE little`"
        )
    if version == 1:
        return _NotRead("is GGUF of version 1, which no tool writes any more; download the model in a newer file")
    return ValueError(f"its version of GGUF is {version:,}, and versions 2 and 3 are known")


def open_shards(paths: tuple[Path, ...]) -> tuple[GgufHeader, ...]:
    """The headers of a model's files, the first with the metadata. Raises as `GgufHeader.open`, and Damaged for other files."""
    headers = tuple(GgufHeader.open(path) for path in paths)
    first = headers[0]
    for at, header in enumerate(headers):
        number, count = header.metadata.get("split.no", 0), header.metadata.get("split.count", 0) or 1
        if (number, count) != (at, len(paths)):
            raise _not_together(
                f"{header.path} says it is file {_as_number(number, 1)} of {_as_number(count)}, not {at + 1} of {len(paths)}"
            )
    names = [tensor.name for header in headers for tensor in header.tensors]
    expected = first.metadata.get("split.tensors.count", len(names))
    if len(set(names)) < len(names) or expected != len(names):
        raise _not_together(
            f"{first.path} and the files beside it have {len(set(names)):,} tensors, not {_as_number(expected)}"
        )
    return headers


def _not_together(what: str) -> SmoloraError:
    return Damaged(f"{what}; put all files of the model into one folder under the names that they were published with.")


def _as_number(value: Any, more: int = 0) -> str:
    return str(value + more) if isinstance(value, int) else printable(str(value))
