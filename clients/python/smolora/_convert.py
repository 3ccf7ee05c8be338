"""Messages into the frozen values of `smolora._values`, by field name; and those values into JSON's types.

A field that may be None is None where it is unset. An enum's `PREFIX_X_Y` is the value's `X_Y`; zero (`_UNSPECIFIED`) is None.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from smolora import _values as models
from smolora._errors import Internal

T = TypeVar("T")

_BODIES: Mapping[str, type[models.EventBody]] = {
    "state": models.StateChange,
    "train": models.TrainProgress,
    "evaluation": models.Evaluation,
    "checkpoint": models.Checkpoint,
    "phase": models.PhaseProgress,
    "sample": models.Sample,
    "estimate": models.Estimate,
    "note": models.Note,
}


def from_message(cls: type[T], message: Message) -> T:
    """A value from a message that has its fields. Raises Internal for an enum value that only a newer client knows."""
    kinds = _types_of(cast(Hashable, cls))
    return cls(**{name: _field(hint, message, name) for name, hint in kinds.items()})


def event_from(message: Any) -> models.JobEvent | None:
    """An event of a job; None for a heartbeat, and for a kind of event that only a newer client knows."""
    kind = message.WhichOneof("body")
    if kind not in _BODIES:
        return None
    return models.JobEvent(
        job_id=message.job_id,
        sequence=message.sequence,
        time=message.time.ToDatetime(tzinfo=UTC),
        kind=kind,
        body=from_message(_BODIES[kind], getattr(message, kind)),
    )


def enum_prefix(descriptor: Any) -> str:
    """`JOB_STATE_` for the enum `JobState`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", descriptor.name).upper() + "_"


def to_json(value: Any) -> Any:
    """A value of `smolora._values` as JSON's types; a job's event carries its body under its kind, as the contract does."""
    if isinstance(value, models.JobEvent):
        named = {name: getattr(value, name) for name in ("job_id", "sequence", "time")}
        return to_json(named | {value.kind: value.body})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return list(value)
    return value.isoformat() if isinstance(value, datetime) else value


@functools.cache
def _types_of(cls: Hashable) -> Mapping[str, Any]:
    """The type of each field of a data class."""
    return typing.get_type_hints(cls)


def _field(hint: Any, message: Message, name: str) -> Any:
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    kind = hint
    if typing.get_origin(hint) is Mapping:
        return dict(value)
    if typing.get_origin(hint) is tuple:
        return tuple(_single(typing.get_args(hint)[0], descriptor, item) for item in value)
    if typing.get_origin(hint) is types.UnionType:  # `X | None`
        if descriptor.has_presence and not message.HasField(name):
            return None
        kind = typing.get_args(hint)[0]
    return _single(kind, descriptor, value)


def _single(kind: Any, descriptor: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=UTC)
    if dataclasses.is_dataclass(kind):
        return from_message(cast(type, kind), value)
    if descriptor.enum_type is None:
        return value
    known = descriptor.enum_type.values_by_number.get(value)
    if known is None:
        raise Internal(
            f"The daemon sent {descriptor.name} {value}, which this client does not know; update it: pip install -U smolora."
        )
    return None if value == 0 else kind[known.name.removeprefix(enum_prefix(descriptor.enum_type))]
