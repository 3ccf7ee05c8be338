# GENERATED from smolora/_async/streams.py by scripts/unasync.py: change that file.
"""Streams that a caller iterates.

Leaving one early ends the call. For a generation that ends the work, for a job only the view of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

from smolora import _values as values
from smolora._convert import event_from, from_message
from smolora._errors import Cancelled, ConnectionLost, DaemonNotRunning, Internal, ShuttingDown, SmoloraError
from smolora._settings import fill
from smolora._transport.threads import Stream, Transport
from smolora.v1 import jobs_pb2, jobs_pb2_grpc

T = TypeVar("T")

# A job's stream has a heartbeat every 5 s, so this much silence means that the daemon hangs.
JOB_IDLE_S = 60.0
# How long a restart of the daemon may take before a watcher gives up.
RECONNECT_S = 60.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0


class JobRun(Generic[T]):
    """A job's events as they come, and its result.

    Iterate it for the events (`JobEvent`), or call `result()` at once. A lost connection is made again for up to 60 seconds, as
    while the daemon restarts; no event is lost and none comes twice. The job outlives this view: leave the loop when you like,
    then iterate again or call `result()` to continue. A job that failed raises its error.
    """

    def __init__(
        self,
        transport: Transport,
        begin: Callable[[], Stream] | None,
        finish: Callable[[str, Any], T],
        *,
        job_id: str = "",
        after: int = 0,
    ) -> None:
        """`begin` opens the stream that creates the job; `finish` makes the result of the last message's kind and body."""
        self.job_id = job_id
        self.last_sequence = after
        self._last_body: values.EventBody | None = None
        self._transport = transport
        self._begin = begin
        self._finish = finish
        self._stream: Stream | None = None
        self._first: Any = None
        self._result: T | None = None
        self._lost_at: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._heard = False

    def start(self) -> Self:
        """Reads the first message, so that `job_id` is known and a refused request raises here."""
        self._first = self._read()
        if self.job_id == "":
            kind = self._first.WhichOneof("event")
            self.job_id = getattr(self._first, kind).job_id
        return self

    def __iter__(self) -> Iterator[values.JobEvent]:
        try:
            while self._result is None:
                message, self._first = self._first or self._read(), None
                if message is None:
                    return
                kind = message.WhichOneof("event")
                body = getattr(message, kind)
                if kind != "job_event":
                    self._result = self._finish(kind, body)
                elif (event := event_from(body)) is not None and self._is_new(event):
                    self.last_sequence, self._last_body = event.sequence, event.body
                    yield event
        finally:
            self.close()

    def result(self) -> T:
        """What the job made, as soon as it has; passes over the events left."""
        for _ in self:
            pass
        if self._result is None:
            raise Cancelled(f"The view of job {self.job_id} was closed; watch it again with watch({self.job_id!r}).")
        return self._result

    def close(self) -> None:
        """Ends the view. The job continues."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def _is_new(self, event: values.JobEvent) -> bool:
        """Whether it was not seen yet; a note that is not stored, as on a full disk, repeats the last number."""
        if event.sequence == self.last_sequence:
            return event.kind == "note" and event.body != self._last_body
        return event.sequence > self.last_sequence

    def _read(self) -> Any:
        """The next message, over as many connections as it takes; None where the view was closed meanwhile."""
        while True:
            try:
                if self._stream is None:
                    self._stream = self._open()
                message = self._stream.read()
                if message is None and self._stream is not None:
                    raise Internal(f"The stream of job {self.job_id} ended without its result; see the daemon's log.")
            except (ConnectionLost, ShuttingDown, DaemonNotRunning) as lost:
                self.close()
                self._wait_to_reconnect(lost)
            else:
                self._heard = True
                self._lost_at = None
                return message

    def _open(self) -> Stream:
        if self._begin is not None and self.job_id == "":
            return self._begin()
        request = fill(jobs_pb2.WatchJobRequest, id=self.job_id, after_sequence=self.last_sequence)
        return self._transport.stream(self._transport.stub(jobs_pb2_grpc.JobServiceStub).WatchJob, request, idle=JOB_IDLE_S)

    def _wait_to_reconnect(self, lost: SmoloraError) -> None:
        """Waits a little longer each time; raises `lost` where it is time to give up."""
        now = time.monotonic()
        if self._lost_at is None:
            if not self._heard and not isinstance(lost, ConnectionLost):
                raise lost  # there is no daemon to begin with
            self._lost_at = now
            self._pause_s = _FIRST_PAUSE_S
        if now - self._lost_at > RECONNECT_S:
            raise lost
        self._transport.pause(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


class Loading:
    """The stages of a loading (`LoadProgress`) as they come, and the loaded model.

    `estimate` says what the model takes in memory; it is None until the model's files are there, and stays None for a model
    that is loaded already.
    """

    def __init__(self, stream: Stream) -> None:
        self.estimate: values.LoadEstimate | None = None
        self._stream = stream
        self._resident: values.ResidentModel | None = None

    def __iter__(self) -> Iterator[values.LoadProgress]:
        try:
            while self._resident is None and (message := self._stream.read()) is not None:
                if message.WhichOneof("event") == "resident":
                    self._resident = from_message(values.ResidentModel, message.resident)
                elif message.WhichOneof("event") == "estimate":
                    self.estimate = from_message(values.LoadEstimate, message.estimate)
                elif message.HasField("progress"):
                    yield from_message(values.LoadProgress, message.progress)
        finally:
            self.close()

    def result(self) -> values.ResidentModel:
        """The model now in memory; passes over the stages left. Raises Cancelled where the loading was left early."""
        for _ in self:
            pass
        if self._resident is None:
            raise Cancelled("The loading was left before its end; call load() again.")
        return self._resident

    def close(self) -> None:
        """Ends the call."""
        self._stream.cancel()


class Generation:
    """An answer as it is made: iterate it for pieces of text, or call `text()` for all of it.

    `outcome` says how it ended: None until then, and None where it was left early. `logprobs` has the tokens so far, where
    they were asked for; those of a piece of text are there before it. Leaving the loop early ends the generation within one
    token.
    """

    def __init__(self, stream: Stream) -> None:
        self.outcome: values.GenerateOutcome | None = None
        self.logprobs: list[values.TokenLogprob] = []
        self._stream = stream
        self._pieces: list[str] = []

    def __iter__(self) -> Iterator[str]:
        try:
            while self.outcome is None and (message := self._stream.read()) is not None:
                if message.WhichOneof("event") == "outcome":
                    self.outcome = from_message(values.GenerateOutcome, message.outcome)
                elif message.WhichOneof("event") == "token_logprob":
                    self.logprobs.append(from_message(values.TokenLogprob, message.token_logprob))
                elif message.text:
                    self._pieces.append(message.text)
                    yield message.text
        finally:
            self.close()

    def text(self) -> str:
        """The whole answer, what was iterated already included."""
        for _ in self:
            pass
        return "".join(self._pieces)

    def close(self) -> None:
        """Ends the generation; the daemon stops computing within one token."""
        self._stream.cancel()
