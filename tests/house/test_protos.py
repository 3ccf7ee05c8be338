"""The contracts keep the conventions that clients in other languages rely on, and every word in them is explained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb

from tests.house.descriptors import compile_protos, elements


def faults(protos: pb.FileDescriptorSet) -> Iterator[str]:
    """What is against the conventions: buf's STANDARD rules as far as they matter here, and a comment on everything."""
    for file in protos.file:
        if file.package.replace(".", "/") != file.name.rpartition("/")[0]:
            yield f"{file.name}: package {file.package} does not match the folder"
        for element in elements(file):
            if not element.comment:
                yield f"{element.name}: no comment"
            yield from _names(element.name, element.proto)
    messages = Counter(kind for file in protos.file for service in file.service for kind in _messages(service))
    yield from (f"{name}: used by {count} methods" for name, count in messages.items() if count > 1)


def _messages(service: pb.ServiceDescriptorProto) -> Iterator[str]:
    for method in service.method:
        yield method.input_type
        yield method.output_type


def _names(name: str, proto: object) -> Iterator[str]:
    if isinstance(proto, pb.ServiceDescriptorProto):
        if not proto.name.endswith("Service"):
            yield f"{name}: does not end in Service"
        for method in proto.method:
            for kind, wanted in ((method.input_type, f"{method.name}Request"), (method.output_type, f"{method.name}Response")):
                if kind.rpartition(".")[2] != wanted:
                    yield f"{name}.{method.name}: {kind} should be {wanted}"
    elif isinstance(proto, pb.EnumDescriptorProto):
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", proto.name).upper() + "_"
        if [value.name for value in proto.value if value.number == 0] != [prefix + "UNSPECIFIED"]:
            yield f"{name}: zero is not {prefix}UNSPECIFIED"
        yield from (f"{name}.{value.name}: no prefix {prefix}" for value in proto.value if not value.name.startswith(prefix))
    elif isinstance(proto, pb.FieldDescriptorProto) and not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", proto.name):
        yield f"{name}: is not lower_snake_case"


def test_the_contracts_keep_the_conventions(protos: pb.FileDescriptorSet) -> None:
    assert list(faults(protos)) == []


def test_each_convention_is_seen_to_be_broken(generator: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.proto").write_text(
        """
        syntax = "proto3";
        package elsewhere.v1;
        // Serves.
        service Kitchen {
          // Asks.
          rpc Cook(Dish) returns (Dish);
        }
        // Eaten.
        message Dish {
          // Salt.
          int32 saltGrams = 1;
          int32 pepper = 2;
        }
        // Heat.
        enum Heat {
          // Off.
          OFF = 0;
        }
        """
    )
    found = list(faults(compile_protos(generator, tmp_path, tmp_path / "set")))
    assert found == [
        "bad.proto: package elsewhere.v1 does not match the folder",
        "Dish.saltGrams: is not lower_snake_case",
        "Dish.pepper: no comment",
        "Heat: zero is not HEAT_UNSPECIFIED",
        "Heat.OFF: no prefix HEAT_",
        "Kitchen: does not end in Service",
        "Kitchen.Cook: .elsewhere.v1.Dish should be CookRequest",
        "Kitchen.Cook: .elsewhere.v1.Dish should be CookResponse",
        ".elsewhere.v1.Dish: used by 2 methods",
    ]
