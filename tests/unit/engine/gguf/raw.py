"""GGUF files byte by byte, so that a header can say anything."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
U32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = 4, 6, 7, 8, 9, 10, 11, 12


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A text with its length, or another."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def value(kind: int, content: Any) -> bytes:
    """A value behind its type; bytes are taken as they are."""
    if isinstance(content, bytes):
        return struct.pack("<I", kind) + content
    if kind == STRING:
        return struct.pack("<I", kind) + text(content)
    return struct.pack("<I", kind) + struct.pack(f"<{NUMBERS[kind]}", content)


def array(kind: int, entries: Sequence[Any], count: int | None = None) -> bytes:
    """A list as a value."""
    body = b"".join(text(one) if kind == STRING else struct.pack(f"<{NUMBERS[kind]}", one) for one in entries)
    return struct.pack("<IIQ", ARRAY, kind, len(entries) if count is None else count) + body


def typed(content: Any) -> bytes:
    """A value as tools write it."""
    match content:
        case bytes():
            return content
        case bool():
            return value(BOOL, content)
        case int():
            return value(U32 if 0 <= content < 2**32 else U64 if content > 0 else I64, content)
        case float():
            return value(F64 if 1e38 < content < math.inf else F32, content)
        case str():
            return value(STRING, content)
    kind = STRING if isinstance(content[0], str) else BOOL if isinstance(content[0], bool) else 5
    return array(kind, content)


def tensor(name: str | bytes, lengths: Sequence[int], kind: int = 0, offset: int = 0, dimensions: int | None = None) -> bytes:
    """The description of a tensor; `lengths` begin with that of a row, as files have them."""
    count = len(lengths) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(lengths)}QIQ", count, *lengths, kind, offset)


@dataclass
class Raw:
    """The parts of a file."""

    keys: list[tuple[str | bytes, bytes]] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    alignment: int = 32

    def head(self) -> bytes:
        """All before the tensors' bytes."""
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        keys = b"".join(text(name) + content for name, content in self.keys)
        return self.magic + struct.pack("<IQQ", self.version, *counts) + keys + b"".join(self.tensors)

    def content(self) -> bytes:
        """The file."""
        head = self.head()
        return head + bytes(-len(head) % self.alignment) + self.data


def with_keys(keys: Mapping[str, Any], **more: Any) -> Raw:
    """A file with these keys."""
    return Raw([(name, typed(content)) for name, content in keys.items()], **more)


def model_file(keys: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A whole file; the arrays are in fp32."""
    raw = with_keys(keys)
    for name, one in arrays.items():
        raw.tensors.append(tensor(name, one.shape[::-1], offset=len(raw.data)))
        raw.data += one.tobytes() + bytes(-one.nbytes % raw.alignment)
    return raw.content()
