"""Protobuf messages from and to the domain's frozen values, by field name.

The domain's field names equal the contract's, so one mapping serves every message; a house test compares the names. What
differs, differs by rule:

- A field that is unset, or zero without presence, takes the domain's default where it has one.
- A domain enum's `X_Y` is protobuf's `PREFIX_X_Y`; zero (`_UNSPECIFIED`) is None, or the default.
- Timestamps are aware datetimes in UTC, durations are timedeltas, repeated fields are tuples, maps are mappings.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import types
import typing
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, Union

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from smolorad.errors import InvalidRequest

if typing.TYPE_CHECKING:
    from google._upb import _message
    from google.protobuf import descriptor

    FieldDescriptor = descriptor.FieldDescriptor | _message.FieldDescriptor
    EnumDescriptor = descriptor.EnumDescriptor | _message.EnumDescriptor

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@functools.cache
def _types_of(cls: Hashable) -> Mapping[str, Any]:
    """The resolved type of each field of a data class, without its `| None`."""
    return {name: _bare(hint) for name, hint in typing.get_type_hints(cls).items()}


def _bare(hint: Any) -> Any:
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint


@functools.cache
def enum_prefix(descriptor: EnumDescriptor) -> str:
    """`JOB_STATE_` for the enum `JobState`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", descriptor.name).upper() + "_"


def from_message(cls: type[T], message: Message) -> T:
    """A domain value from a message; fields the domain does not have are left out.

    Raises InvalidRequest for an enum number that the contract does not know.
    """
    kinds = _types_of(typing.cast(Hashable, cls))
    descriptors = message.DESCRIPTOR.fields_by_name
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        descriptor = descriptors.get(f.name)
        if descriptor is None or _is_unset(message, descriptor):
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                values[f.name] = None if descriptor is None else _zero(kinds[f.name], descriptor)
            continue
        values[f.name] = _value_from(kinds[f.name], descriptor, getattr(message, f.name))
    return cls(**values)


def _is_unset(message: Message, descriptor: FieldDescriptor) -> bool:
    if descriptor.is_repeated:
        return not getattr(message, descriptor.name)
    if descriptor.has_presence:
        return not message.HasField(descriptor.name)
    return bool(getattr(message, descriptor.name) == descriptor.default_value)


def _zero(kind: Any, descriptor: FieldDescriptor) -> Any:
    if descriptor.is_repeated:
        return {} if typing.get_origin(kind) is Mapping else ()
    if descriptor.has_presence or descriptor.enum_type is not None:
        return None
    return descriptor.default_value


def _value_from(kind: Any, descriptor: FieldDescriptor, value: Any) -> Any:
    if typing.get_origin(kind) is Mapping:
        return dict(value)
    if descriptor.is_repeated:
        item = typing.get_args(kind)[0]
        return tuple(_single_from(item, descriptor, one) for one in value)
    return _single_from(kind, descriptor, value)


def _single_from(kind: Any, descriptor: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=UTC)
    if isinstance(value, Duration):
        return value.ToTimedelta()
    if dataclasses.is_dataclass(kind):
        return from_message(typing.cast(type, kind), value)
    if descriptor.enum_type is not None:
        known = descriptor.enum_type.values_by_number.get(value)
        if known is None:
            raise InvalidRequest.field(descriptor.name, f"{value} is not a value of {descriptor.enum_type.name}")
        return kind[known.name.removeprefix(enum_prefix(descriptor.enum_type))]
    return kind(value) if kind in (int, float, str, bool) else value


def to_message(cls: type[M], value: Any, **more: Any) -> M:
    """A message from a domain value; None is left unset, and so are fields the message does not have.

    `more` gives fields, as protobuf values, that the domain value does not have.
    """
    message = cls()
    descriptors = message.DESCRIPTOR.fields_by_name
    for f in dataclasses.fields(value):
        descriptor = descriptors.get(f.name)
        got = getattr(value, f.name)
        if descriptor is None or got is None:
            continue
        _set(message, descriptor, got)
    for name, got in more.items():
        if isinstance(got, Message):
            getattr(message, name).CopyFrom(got)
        elif got is not None:
            setattr(message, name, got)
    return message


def _set(message: Message, descriptor: FieldDescriptor, value: Any) -> None:
    name = descriptor.name
    if isinstance(value, Mapping):
        getattr(message, name).update(value)
    elif descriptor.is_repeated:
        target = getattr(message, name)
        if descriptor.message_type is not None:
            item = target.add
            for one in value:
                fresh = item()
                fresh.CopyFrom(to_message(type(fresh), one))
        else:
            target.extend(_plain(descriptor, one) for one in value)
    elif isinstance(value, datetime):
        getattr(message, name).FromDatetime(value)
    elif isinstance(value, timedelta):
        getattr(message, name).FromTimedelta(value)
    elif dataclasses.is_dataclass(value):
        target = getattr(message, name)
        target.SetInParent()
        target.CopyFrom(to_message(type(target), value))
    else:
        setattr(message, name, _plain(descriptor, value))


def _plain(descriptor: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, enum.Enum) and descriptor.enum_type is not None:
        return descriptor.enum_type.values_by_name[enum_prefix(descriptor.enum_type) + value.name].number
    return value
