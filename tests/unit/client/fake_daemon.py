"""A real gRPC server on a real Unix socket whose answers a test writes: `daemon.script["GetStatus"] = handler`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, message_factory
from google.rpc import code_pb2, error_details_pb2, status_pb2

from smolora.common.paths import grpc_target
from smolora.v1 import datasets_pb2, generation_pb2, jobs_pb2, models_pb2, system_pb2, training_pb2

_FILES = (datasets_pb2, generation_pb2, jobs_pb2, models_pb2, system_pb2, training_pb2)
_METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
Handler = Callable[[Any, Any], Any]


class FakeDaemon(grpc.GenericRpcHandler):
    """Answers each method with the handler of its name: an async function, or an async generator for a stream.

    `requests` keeps what came, in order, with the method's name. `left` is set when a stream ends before its handler did: the
    caller went away, or the handler failed.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.script: dict[str, Handler] = {}
        self.requests: list[tuple[str, Any]] = []
        self.left = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Binds the socket."""
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(grpc_target(self.socket))
        await self._server.start()

    async def stop(self) -> None:
        """Ends every call at once, and unbinds."""
        assert self._server is not None
        await self._server.stop(None)

    def asked(self, name: str) -> list[Any]:
        """The requests that came for one method."""
        return [request for method, request in self.requests if method == name]

    def service(self, details: Any) -> Any:
        """The handler of a call; UNIMPLEMENTED where the script has none."""
        method = _METHODS.get(details.method)
        if method is None or method.name not in self.script:
            return None
        coding = {
            "request_deserializer": message_factory.GetMessageClass(method.input_type).FromString,
            "response_serializer": message_factory.GetMessageClass(method.output_type).SerializeToString,
        }
        handler = self._recorded(method.name, self.script[method.name], method.client_streaming)
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(handler, **coding)
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        return make(handler, **coding)

    def _recorded(self, name: str, handler: Handler, streams_in: bool) -> Handler:
        if inspect.isasyncgenfunction(handler):

            async def stream(request: Any, context: Any) -> Any:
                self.requests.append((name, request))
                finished = False
                try:
                    async with contextlib.aclosing(handler(request, context)) as messages:
                        async for message in messages:
                            yield message
                    finished = True
                finally:
                    if not finished:
                        self.left.set()

            return stream

        async def single(request: Any, context: Any) -> Any:
            if not streams_in:
                self.requests.append((name, request))
            return await handler(request, context)

        return single


def answers(response: Any) -> Any:
    """A handler that always gives this answer."""

    async def handler(request: Any, context: Any) -> Any:
        return response

    return handler


async def fail(
    context: Any,
    reason: str,
    message: str,
    *,
    code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION,
    violations: Sequence[tuple[str, str]] = (),
    retry_s: int = 0,
) -> None:
    """Ends a call as the daemon does: a rich status with one ErrorInfo."""
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="smolora")]
    if violations:
        bad = error_details_pb2.BadRequest()
        for field, description in violations:
            bad.field_violations.add(field=field, description=description)
        details.append(bad)
    if retry_s:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(retry_s)
        details.append(retry)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))


async def silence() -> None:
    """Nothing more, until the caller goes."""
    await asyncio.Event().wait()


def event(sequence: int, job_id: str = "j1", **body: Any) -> Any:
    """A job's event; a note, where no body is given."""
    filled = body or {"note": jobs_pb2.Note(text=f"note {sequence}")}
    return jobs_pb2.JobEvent(job_id=job_id, sequence=sequence, **filled)


def job(state: int = jobs_pb2.JOB_STATE_SUCCEEDED, **fields: Any) -> Any:
    """A train job."""
    return jobs_pb2.Job(**{"id": "j1", "kind": jobs_pb2.JOB_KIND_TRAIN, "state": state, "target": "poet"} | fields)


def adapter(**fields: Any) -> Any:
    """A trained adapter."""
    base = {"name": "poet", "revision": 1, "origin": 5, "base_model": "starter", "job_id": "j1", "steps": 2, "train_loss": 2.5}
    return models_pb2.Adapter(**base | {"eval_loss_before": 3.0, "eval_loss_after": 2.0} | fields)
