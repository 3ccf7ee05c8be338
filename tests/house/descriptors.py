"""The descriptors of proto files, and the comment on each thing in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2 as pb

from tests.house.repository import succeed


def compile_protos(generator: Path, root: Path, to: Path) -> pb.FileDescriptorSet:
    """The descriptors of every proto file below `root`, with their comments."""
    files = [str(path.relative_to(root)) for path in sorted(root.rglob("*.proto"))]
    options = ["-I", str(root), "--include_source_info", f"--descriptor_set_out={to}"]
    succeed([generator, "-m", "grpc_tools.protoc", *options, *files])
    return pb.FileDescriptorSet.FromString(to.read_bytes())


@dataclass(frozen=True, slots=True)
class Element:
    """A service, method, message, field, enum or enum value of a proto file, and the comment above it."""

    name: str  # with the names of what it stands in: `Job.id`
    proto: Any
    comment: str


def elements(file: pb.FileDescriptorProto) -> Iterator[Element]:
    """Everything in a proto file that wants a comment."""
    comments = {tuple(spot.path): spot.leading_comments for spot in file.source_code_info.location}
    children = {
        pb.FileDescriptorProto: (("message_type", 4), ("enum_type", 5), ("service", 6)),
        pb.DescriptorProto: (("field", 2), ("nested_type", 3), ("enum_type", 4)),
        pb.EnumDescriptorProto: (("value", 2),),
        pb.ServiceDescriptorProto: (("method", 2),),
    }

    def walk(parent: Any, path: tuple[int, ...], prefix: str) -> Iterator[Element]:
        for attribute, number in children.get(type(parent), ()):
            for index, child in enumerate(getattr(parent, attribute)):
                if isinstance(child, pb.DescriptorProto) and child.options.map_entry:
                    continue
                here = (*path, number, index)
                yield Element(prefix + child.name, child, " ".join(comments.get(here, "").split()))
                yield from walk(child, here, f"{prefix}{child.name}.")

    yield from walk(file, (), "")
