"""Checks of fields that several requests share."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from smolorad.errors import InvalidRequest

_REQUEST_ID_LIMIT_BYTES = 128
_DURATION_LIMIT_S = 315_576_000_000  # protobuf's own


def check_request_id(request_id: str) -> str:
    """The id itself, if it is not too long; else raises InvalidRequest."""
    if (length := len(request_id.encode())) > _REQUEST_ID_LIMIT_BYTES:
        raise InvalidRequest.field("request_id", f"has {length:,} bytes, but must have at most {_REQUEST_ID_LIMIT_BYTES}")
    return request_id


def check_duration(duration: Duration, field_name: str) -> timedelta:
    """The duration as a timedelta, if it is within what protobuf defines; else raises InvalidRequest."""
    if abs(duration.seconds) > _DURATION_LIMIT_S or abs(duration.nanos) >= 10**9:
        raise InvalidRequest.field(field_name, "is not a duration; give seconds, or a negative number for ever")
    return duration.ToTimedelta()
