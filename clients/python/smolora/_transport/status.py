"""gRPC's errors into ours. Nothing above this package sees gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from smolora import _errors as errors
from smolora._channel import Address

_DOMAIN = "smolora"

# What an answer without a reason means: it came from gRPC itself, or from a daemon of another version.
_BY_CODE: Mapping[grpc.StatusCode, type[errors.SmoloraError]] = {
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.BadState,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.QueueFull,
    grpc.StatusCode.DATA_LOSS: errors.Damaged,
}


def to_error(failure: Any, address: Address) -> errors.SmoloraError:
    """The error to raise for a failed call; `failure` is the RpcError of either of gRPC's two stacks."""
    code, details = failure.code(), failure.details() or ""
    status = _rich_status(failure)
    if status is not None:
        rich = _from_status(status)
        if rich is not None:
            return rich
    if code is grpc.StatusCode.UNAVAILABLE:
        if not address.answers():
            return address.not_running()
        return errors.ConnectionLost(f"The connection to the daemon at {address.path} was lost; try again. ({details})")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.TimedOut(
            f"The daemon at {address.path} gave no answer in time; see its log, or allow more with `timeout`."
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.Internal("The daemon does not know this call; it and this client differ in version: update the older.")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return errors.InvalidRequest(f"This is too much for one call; send less. ({details})")
    return _BY_CODE.get(code, errors.Internal)(details or f"The call failed with {code.name}; see the daemon's log.")


def _rich_status(failure: Any) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(failure)
    except (ValueError, DecodeError):  # details that contradict the status line, or are none of ours
        return None


def _from_status(status: status_pb2.Status) -> errors.SmoloraError | None:
    """The error that a status names; None where it has no reason of ours."""
    reason = ""
    violations: list[errors.Violation] = []
    retry_after: float | None = None
    for detail in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            reason = info.reason
        elif detail.Unpack(bad):
            violations += [errors.Violation(one.field, one.description) for one in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    if not reason:
        return None
    return errors.by_reason(reason)(status.message, violations, retry_after)
