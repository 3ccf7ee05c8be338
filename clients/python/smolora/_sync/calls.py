# GENERATED from smolora/_async/calls.py by scripts/unasync.py: change that file.
"""How calls are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from smolora import _values as values
from smolora._channel import Address
from smolora._convert import from_message
from smolora._errors import Cancelled, by_reason
from smolora._files import LocalFile, pieces
from smolora._references import AnyPath
from smolora._sync.streams import JOB_IDLE_S, JobRun
from smolora._transport.threads import Stream, Transport
from smolora.v1 import datasets_pb2, datasets_pb2_grpc

T = TypeVar("T")

# Items that one request for a list asks for at most.
_PAGE = 1000


# An upload may take this long for each MiB, besides the ordinary deadline.
_UPLOAD_S_PER_MIB = 1.0


class Calls:
    """A connection to the daemon, and the kinds of calls: one answer, a stream, files, a list, a job."""

    def __init__(self, socket: AnyPath | None, timeout: float) -> None:
        self.timeout = timeout
        self._transport = Transport(Address.find(socket))

    def _call(self, stub: type, method: str, request: Any, *, timeout: float | None = None) -> Any:
        return self._transport.call(getattr(self._transport.stub(stub), method), request, timeout or self.timeout)

    def _stream(self, stub: type, method: str, request: Any, *, idle: float | None, timeout: float | None = None) -> Stream:
        bound = getattr(self._transport.stub(stub), method)
        return self._transport.stream(bound, request, idle=idle, timeout=timeout)

    def _send(self, files: list[LocalFile], on_sent: Callable[[int, int], None] | None) -> str:
        total, done = sum(file.size_bytes for file in files), 0
        upload_id = ""

        def counted(requests: Iterator[datasets_pb2.UploadFileRequest]) -> Iterator[datasets_pb2.UploadFileRequest]:
            nonlocal done
            for request in requests:
                done += len(request.data)
                if on_sent is not None:
                    on_sent(done, total)
                yield request

        for file in files:
            deadline = self.timeout + file.size_bytes / 2**20 * _UPLOAD_S_PER_MIB
            requests = counted(pieces(file, upload_id))
            answer = self._transport.send(datasets_pb2_grpc.DatasetServiceStub, "UploadFile", requests, deadline)
            upload_id = answer.upload_id
        return upload_id

    def _list(self, stub: type, method: str, request: Any, field: str, kind: type[T], limit: int) -> list[T]:
        found: list[T] = []
        while len(found) < limit:
            request.page_size = min(limit - len(found), _PAGE)
            answer = self._call(stub, method, request)
            found += [from_message(kind, item) for item in getattr(answer, field)]
            request.page_token = answer.next_page_token
            if not answer.next_page_token:
                break
        return found

    def _run_job(self, stub: type, method: str, request: Any, kind: type[T], get: Callable[[str], Any]) -> JobRun[T]:
        """Starts a job; `get` fetches what it made by reference, for a result that comes over a second connection."""

        def finish(what: str, body: Any) -> T:
            if what != "job":
                return from_message(kind, body)
            job = from_message(values.Job, body)
            if job.state is values.JobState.CANCELLED:
                raise Cancelled(f"Job {job.id} was cancelled; continue it with: smolora-client jobs resume {job.id}")
            if job.error is not None:
                raise by_reason(job.error.reason)(job.error.message)
            found: T = get(job.result)
            return found

        def begin() -> Stream:
            return self._stream(stub, method, request, idle=JOB_IDLE_S)

        return JobRun(self._transport, begin, finish).start()
