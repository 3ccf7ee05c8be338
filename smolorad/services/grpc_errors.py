"""Maps errors to gRPC statuses; the only table that says which.

A handler raises `SmoloraError`; `@map_errors` ends the call with google.rpc.Status: exactly one ErrorInfo, BadRequest where
fields or lines are invalid, RetryInfo where waiting helps. Handlers are async: a sync generator in an aio server never learns
that its client went away.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from smolorad.errors import Internal, InvalidRequest, SmoloraError, Violation, of_system
from smolorad.log import Log

log = Log(__name__)

DOMAIN = "smolora"
_OURS = "/smolora.v1."
# gRPC clients accept this much by default.
MESSAGE_LIMIT_BYTES = 4 * 2**20
_DETAILS_KEY = "grpc-status-details-bin"
# gRPC begins to refuse metadata above 8 KiB. The details travel there in base64, and the message a second time beside them.
_SENTENCE_LIMIT_BYTES = 1000
_VIOLATIONS_LIMIT_BYTES = 2500

CODE: Mapping[str, grpc.StatusCode] = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "BAD_DATA": grpc.StatusCode.INVALID_ARGUMENT,
    "PROMPT_TOO_LONG": grpc.StatusCode.INVALID_ARGUMENT,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "NO_MODEL": grpc.StatusCode.FAILED_PRECONDITION,
    "WRONG_BASE": grpc.StatusCode.FAILED_PRECONDITION,
    "UNSUPPORTED_MODEL": grpc.StatusCode.FAILED_PRECONDITION,
    "BAD_STATE": grpc.StatusCode.FAILED_PRECONDITION,
    "QUEUE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "OUT_OF_MEMORY": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NO_ROOM": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NO_SPACE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "NO_ACCESS": grpc.StatusCode.PERMISSION_DENIED,
    "ENGINE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
    "DAMAGED": grpc.StatusCode.DATA_LOSS,
    "NOT_FINITE": grpc.StatusCode.INTERNAL,
    "HUB_UNREACHABLE": grpc.StatusCode.UNAVAILABLE,
    "CANCELLED": grpc.StatusCode.CANCELLED,
    "MERGE_MISMATCH": grpc.StatusCode.INTERNAL,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}
# Where trying again helps, and after how many seconds.
_RETRY_S: Mapping[str, int] = {"QUEUE_FULL": 5, "ENGINE_UNAVAILABLE": 2}

F = TypeVar("F", bound=Callable[..., Any])
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def map_errors(handler: F) -> F:
    """Makes a service method, unary or streaming, end with a status for every exception."""
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def stream(self: Any, request: Any, context: Context) -> AsyncIterator[Any]:
            # Without aclosing, closing this generator would leave the handler's own one to the garbage collector.
            async with _errors_to_status(context, handler.__name__), contextlib.aclosing(handler(self, request, context)) as it:
                _refuse_unreadable(request)
                async for message in it:
                    yield _sendable(message)

        return stream  # type: ignore[return-value]

    @functools.wraps(handler)
    async def single(self: Any, request: Any, context: Context) -> Any:
        async with _errors_to_status(context, handler.__name__):
            _refuse_unreadable(request)
            return _sendable(await handler(self, request, context))

    return single  # type: ignore[return-value]


class DeferParseErrors(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets `@map_errors` refuse a malformed or too large request: gRPC's own status would have no ErrorInfo."""

    async def intercept_service(self, continuation: Callable[..., Any], call: grpc.HandlerCallDetails) -> Any:
        """The method's handler, with a parser of requests that leaves the errors to `@map_errors`."""
        handler = await continuation(call)
        if handler is None or not call.method.startswith(_OURS):
            return handler
        parse, streams = handler.request_deserializer, handler.request_streaming

        def read(data: bytes) -> Any:
            if len(data) > MESSAGE_LIMIT_BYTES:
                error = InvalidRequest(f"The request has {_too_large(len(data))}; send less in one call.")
            else:
                try:
                    return parse(data)
                except DecodeError:
                    error = InvalidRequest("The request is no message of the contract smolora.v1; make it with its stubs.")
            if streams:  # read inside the handler, so that it can be raised
                raise error
            return error

        return handler._replace(request_deserializer=read)


def _sendable(message: Any) -> Any:
    """The message, if every gRPC client takes one of its size; their own refusal would have no ErrorInfo."""
    if (size := message.ByteSize()) > MESSAGE_LIMIT_BYTES:
        raise InvalidRequest(f"The answer has {_too_large(size)}; ask for less, with a smaller limit or page_size.")
    return message


def _too_large(size: int) -> str:
    return f"{size:,} bytes, and a message may have {MESSAGE_LIMIT_BYTES:,}"


def _refuse_unreadable(request: Any) -> None:
    if isinstance(request, InvalidRequest):
        raise request


@contextlib.asynccontextmanager
async def _errors_to_status(context: Context, method: str) -> AsyncIterator[None]:
    try:
        yield
    except SmoloraError as error:
        log.debug("call refused", method=method, reason=error.reason, why=error.message)
        await _abort(context, error)
    except Exception as error:
        if (known := of_system(error)) is not None:
            log.info("call refused", method=method, reason=known.reason, why=error)
            await _abort(context, known)
        log.exception("call failed", method=method)
        await _abort(context, Internal("Something went wrong inside the daemon; please report it with its log."))


async def _abort(context: Context, error: SmoloraError) -> None:
    status = status_of(error)
    await context.abort(CODE[error.reason], status.message, ((_DETAILS_KEY, status.SerializeToString()),))


def status_of(error: SmoloraError) -> status_pb2.Status:
    """The rich status of an error; long messages and long lists of violations are cut."""
    details: list[any_pb2.Any] = [_pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))]
    if error.violations:
        details.append(_pack(_bad_request(error.violations)))
    if error.reason in _RETRY_S:
        delay = duration_pb2.Duration(seconds=_RETRY_S[error.reason])
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=CODE[error.reason].value[0], message=_cut(error.message), details=details)


def _cut(message: str) -> str:
    data = message.encode(errors="replace")
    if len(data) <= _SENTENCE_LIMIT_BYTES:
        return data.decode()
    return data[:_SENTENCE_LIMIT_BYTES].decode(errors="ignore") + "…"


def _bad_request(violations: Iterable[Violation]) -> error_details_pb2.BadRequest:
    found, size = error_details_pb2.BadRequest(), 0
    for violation in violations:
        size += len(violation.field.encode()) + len(violation.description.encode())
        if size > _VIOLATIONS_LIMIT_BYTES:
            break
        found.field_violations.add(field=violation.field, description=violation.description)
    return found


def _pack(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
