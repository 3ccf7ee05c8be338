"""The header of a safetensors file: which tensors the file has, and where each lies.

The only reader of headers, for the daemon, which has neither numpy nor the safetensors library, and for the engine. It refuses
what the library refuses. Layout (safetensors' README): eight bytes with the header's length, the header as JSON, then the bytes
of all tensors without gaps.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from smolora.common.json_file import NotAnObject, parse_object
from smolorad.errors import Damaged, printable

_MAX_HEADER_BYTES = 100_000_000  # as in the library
_MAX_LENGTH = 2**63 - 1  # of a dimension; numpy and torch count bytes in 64 bits, and leave out dimensions of 0
_MAX_DIMENSIONS = 32  # numpy's limit before its release 2
_METADATA = "__metadata__"
# The library's formats, by the bits of a number.
_FORMATS: Mapping[int, str] = {
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
    8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "I16 U16 F16 BF16",
    32: "I32 U32 F32",
    64: "C64 F64 I64 U64",
}
_BITS = {name: bits for bits, names in _FORMATS.items() for name in names.split()}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file."""

    name: str
    format: str  # of its numbers, as safetensors names it: F32, BF16 ...
    shape: tuple[int, ...]
    begin: int  # bytes from the beginning of the file
    end: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A file whose header was read."""

    path: Path
    tensors: tuple[StoredTensor, ...]  # in the order of their bytes
    size: int  # bytes
    version: tuple[int, ...]  # changes when the file is replaced or written

    @classmethod
    def open(cls, path: Path, advice: str, *, shown: object = None) -> Self:
        """Reads the header. Raises Damaged; its sentence ends with `advice`, and calls the file `shown`, or by its path."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return cls(path, _read_header(file, size, shown or path, advice), size, version_of(os.fstat(file.fileno())))

    def is_open_as(self, file: BinaryIO) -> bool:
        """Whether an open file is still the one whose header was read."""
        return version_of(os.fstat(file.fileno())) == self.version


def tensors_in(content: bytes, shown: object, advice: str) -> tuple[StoredTensor, ...]:
    """The tensors in the bytes of a file; otherwise as `SafetensorsFile.open`."""
    return _read_header(io.BytesIO(content), len(content), shown, advice)


def version_of(stat: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is replaced or written."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _read_header(file: BinaryIO, size: int, shown: object, advice: str) -> tuple[StoredTensor, ...]:
    try:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError("its header does not fit")
        header = file.read(length)
        if not header.startswith(b"{"):
            raise ValueError("its header does not begin as one")
        return tuple(_laid_out(parse_object(header, _MAX_HEADER_BYTES), 8 + length, size))
    except NotAnObject as error:
        raise Damaged(f"{shown} is cut short or damaged (its header {error}); {advice}.") from error
    except ValueError as error:
        raise Damaged(f"{shown} is cut short or damaged ({error}); {advice}.") from error


def _laid_out(header: Mapping[str, Any], begin: int, size: int) -> Iterator[StoredTensor]:
    """The tensors in the order of their bytes; raises ValueError where these are not exactly what follows the header."""
    notes = header.get(_METADATA)
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(note, str) for note in notes.values())):
        raise ValueError(f"its {_METADATA} are no texts")
    tensors = [_tensor(name, entry, begin) for name, entry in header.items() if name != _METADATA]
    for tensor in sorted(tensors, key=lambda one: (one.begin, one.end)):
        if tensor.begin != begin:
            raise ValueError(f"{printable(tensor.name)} does not follow the tensor before it")
        begin = tensor.end
        yield tensor
    if begin != size:
        raise ValueError(f"it has {size:,} bytes, and its header describes {begin:,}")


def _tensor(name: str, entry: Any, start: int) -> StoredTensor:
    name.encode()  # raises a ValueError for half of a character, which JSON can spell
    match entry:
        case {"dtype": str() as format, "shape": list() as shape, "data_offsets": [begin, end]}:
            lengths = (*shape, begin, end)
        case _:
            raise ValueError(f"{printable(name)} has no format, shape and place")
    if (
        not all(type(one) is int and 0 <= one <= _MAX_LENGTH for one in lengths)
        or len(shape) > _MAX_DIMENSIONS
        or 8 * math.prod(length or 1 for length in shape) > _MAX_LENGTH
    ):
        raise ValueError(f"{printable(name)} has a shape or a place that no tensor has")
    if format not in _BITS:
        raise ValueError(f"{printable(name)} has numbers in the unknown format {printable(format)}")
    tensor = StoredTensor(name, format, tuple(shape), start + begin, start + end)
    if 8 * (end - begin) != tensor.count * _BITS[format]:
        raise ValueError(f"{printable(name)} does not have as many bytes as its shape")
    return tensor
