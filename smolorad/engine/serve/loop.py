"""The engine loop: the only thread that runs the model. It takes commands, makes steps and posts events:

1. It takes every command from the inbox. With nothing else to do it blocks there: an idle engine sleeps in the kernel.
2. It serves a command at once (load, attach, detach, count, decode), or makes a `GenerationRequest` of it and gives that to the
   scheduler (generate). `train` returns only when it is done, and calls `yield_to_requests` between micro-steps.
3. The request whose turn it is makes one step: a chunk of its prompt, or one token, then together with all other requests that
   need one token from the same native step. Text that is certain by then is posted.
4. A finished request posts its outcome and leaves the scheduler.

While a training runs, `yield_to_requests` does the same for a slice of time that the scheduler measures: every request makes at
least one step, and the training keeps at least half of the time. Load and train are refused meanwhile.

The inbox's thread handles Ping, Cancel and Drain at any time. A cancelled call is noticed before its next step.
A failure ends its own call alone, and the loop continues. Only a drain, or the end of the daemon, ends the engine.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolora.v1 import generation_pb2, jobs_pb2, models_pb2
from smolorad.domain import GenerateSpec, LoadEstimate
from smolorad.engine.generate.batch import compute_logits, next_parts
from smolorad.engine.generate.prompt import decode, encode
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.generate.token_rate import TokenRate
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel
from smolorad.engine.runtime.errors import to_smolora_error
from smolorad.engine.runtime.gc import gc_paused
from smolorad.engine.serve.output_batcher import OutputBatcher
from smolorad.engine.serve.scheduler import Scheduler
from smolorad.engine.serve.session import Session
from smolorad.engine.train.training_host import Snapshot
from smolorad.engine.train.warmup import WarmUp, prepare_training
from smolorad.errors import BadState, Cancelled, Internal, OutOfMemory, ShuttingDown, is_panic
from smolorad.link.child import Inbox
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb

log = logging.getLogger("smolorad.engine")

_FLUSH_S = 1.5  # for the prefix cache on disk; the daemon waits for 2 s
_STOPPING = "The daemon is shutting down; ask again when it is back."


class EngineLoop:
    """Serves one daemon. It is the `Host` of the trainings that it runs."""

    def __init__(self, inbox: Inbox, session: Session) -> None:
        self._inbox = inbox
        self._session = session
        self._token_rate = TokenRate()
        self._scheduler: Scheduler[GenerationRequest] = Scheduler()
        self._output = OutputBatcher(self.emit)
        self._training: str | None = None  # the job of the training that runs
        self._warm_up = WarmUp(lambda: prepare_training(session.dtype))

    def run(self) -> None:
        """Works until the daemon drains the engine."""
        while not self.draining():
            self._take(block=not self._scheduler)
            if self._scheduler:
                self._turn(self._scheduler.next())
        self._refuse_the_rest()
        self._session.prefix_writer.flush(_FLUSH_S)

    # What a training asks of its host.

    def yield_to_requests(self, call: int) -> None:
        """Between two micro-steps of training `call`: serves pending commands and requests for a bounded slice of time.

        Raises Cancelled if the training was cancelled.
        """
        self._working(call)
        if not self.draining():
            self._take(block=False)
            for request in self._scheduler.slice():
                self._turn(request)
                self._take(block=False)
                if self.draining():
                    break
            self._output.flush()
        self._working(call)
        if self._inbox.cancelled(call):
            raise Cancelled("The training was cancelled.")

    def draining(self) -> bool:
        """Whether the engine is to end."""
        return self._inbox.draining.is_set()

    def stopping(self, call: int) -> bool:
        """Whether training `call` is to checkpoint, then raise ShuttingDown."""
        return self.draining() or self._inbox.paused(call)

    def emit(self, call: int, **body: Any) -> None:
        """Posts one event of a call."""
        self._inbox.emit(call, **body)

    def offer(self, call: int, snapshot: Snapshot | None, between: str = "") -> None:
        """Lets requests have the adapter of training `call` as it is after a step; None ends that."""
        self._session.offer(self._training or "", snapshot)
        if between:
            self.emit(call, note=jobs_pb2.Note(text=f"Generations are answered between {between}."))

    # One step.

    def _take(self, *, block: bool) -> None:
        if block:
            self._inbox.idle()
            self._session.prefix_writer.allow()
        while (command := self._inbox.take(block=block)) is not None and command.WhichOneof("body") != "drain":
            block = False
            self._session.prefix_writer.hold()
            self._working(command.call)
            with self._ending_on_failure(command.call):
                self._serve(command)

    def _turn(self, request: GenerationRequest) -> None:
        """One step of a request, and of those that the native step can compute along with it."""
        self._working(request.call)
        if not request.tokens:  # a prompt's step may take a while
            self._output.flush()
        native = request.native
        batch = [request] if native is None or self._inbox.cancelled(request.call) else self._batch(request)
        begin, before = time.monotonic(), [one.tokens for one in batch]
        if native is None or len(batch) < 2:
            self._step(request)
        else:
            self._step_together(native, batch)
        made = sum(one.tokens for one in batch) - sum(before)
        if made and all(before):  # a prompt's time is not a token's
            self._token_rate.add((time.monotonic() - begin) / made)
        self._working(request.call)

    def _batch(self, request: GenerationRequest) -> list[GenerationRequest]:
        """The request, and the others whose next step the same native step computes."""
        others = (one for one in self._scheduler.all() if one is not request and one.native is request.native)
        return [request, *(one for one in others if not self._inbox.cancelled(one.call))][:MAX_ROWS]

    def _step_together(self, native: NativeModel, batch: Sequence[GenerationRequest]) -> None:
        if not (parts := next_parts(batch, self._ending_request_on_failure)):
            return
        # Where the step that all make together fails, the first request ends; the others try again without it.
        with self._ending_request_on_failure(parts[0][0]):
            for request, logits in compute_logits(native, parts):
                self._scheduler.rotate(request)
                self._step(request, logits)

    def _step(self, request: GenerationRequest, logits: NDArray[np.float32] | None = None) -> None:
        with self._ending_request_on_failure(request):
            text = request.cancel() if self._inbox.cancelled(request.call) else request.step(logits)
            self._output.push(request.call, text, request.logprobs())
            if request.outcome is not None:
                self._scheduler.remove(request)
                self._output.end(request.call)
                self.emit(request.call, outcome=to_message(generation_pb2.GenerateOutcome, request.outcome))
                self._inbox.forget(request.call)

    def _ending_request_on_failure(self, request: GenerationRequest) -> contextlib.AbstractContextManager[None]:
        return self._ending_on_failure(request.call, request)

    @contextlib.contextmanager
    def _ending_on_failure(self, call: int, request: GenerationRequest | None = None) -> Iterator[None]:
        """A failure inside ends the call, and no other."""
        try:
            yield
        except BaseException as raised:
            if not isinstance(raised, Exception) and not is_panic(raised):
                raise
            error = to_smolora_error(raised)
            if isinstance(error, Internal):
                log.exception("call %d failed", call)
            if request is not None:
                self._output.end(call)
                if request in self._scheduler:
                    self._scheduler.remove(request)
            if isinstance(error, OutOfMemory):
                self._session.release_idle_memory()
            self._inbox.fail(call, error)
            self._inbox.forget(call)

    def _working(self, call: int) -> None:
        rate = self._token_rate.tokens_per_second
        self._inbox.working(
            call,
            adapters=self._session.adapter_keys,
            tokens_per_second=rate,
            cache_bytes=sum(request.cache_bytes for request in self._scheduler.all()),
            prefix_cache_bytes=self._session.prefix_cache_bytes,
        )

    def _refuse_the_rest(self) -> None:
        for request in self._scheduler.all():
            self._output.end(request.call)
            self._inbox.fail(request.call, ShuttingDown(_STOPPING))
        self._take(block=False)

    # What the daemon commands.

    def _serve(self, command: pb.Command) -> None:
        if self.draining():
            raise ShuttingDown(_STOPPING)
        call = command.call
        if self._inbox.cancelled(call):  # while it waited
            raise Cancelled("The call was cancelled.")
        match command.WhichOneof("body"):
            case "generate":
                self._scheduler.add(self._session.request(call, command.generate, self._inbox.arrived(call)))
                return  # the call ends with the request
            case "load":
                self._load(call, command.load)
            case "train":
                self._train(call, command.train)
            case "attach":
                parameters = self._session.attach(command.attach).parameters
                self._working(call)  # so that Pong has it before the daemon knows that it is attached
                self.emit(call, attached=pb.Attached(parameters=parameters))
            case "check_adapter":
                checked = self._session.check_adapter(Path(command.check_adapter.adapter_path))
                self.emit(call, attached=pb.Attached(parameters=checked.parameters))
            case "expect_training":
                self._warm_up.start()
                self.emit(call, done=pb.Done())
            case "detach":
                self._session.detach(command.detach.key)
                self._working(call)
                self.emit(call, done=pb.Done())
            case "count_tokens":
                self._count_tokens(call, command.count_tokens)
            case "decode_tokens":
                request = command.decode_tokens
                text = decode(self._session.base, request.token_ids, skip_special_tokens=request.skip_special_tokens)
                self.emit(call, decoded=generation_pb2.DecodeTokensResponse(text=text))
            case other:
                raise Internal(f"The engine does not know the command {other!r}; daemon and engine are of different versions.")
        self._inbox.forget(call)

    def _load(self, call: int, command: pb.Load) -> None:
        self._refuse_while_training("loaded")
        begin = time.monotonic()

        def report(progress: Any) -> None:
            self._working(call)
            if self._inbox.cancelled(call):
                raise Cancelled("The loading was cancelled.")
            self.emit(call, load_progress=to_message(models_pb2.LoadProgress, progress))

        def estimated(found: LoadEstimate) -> None:
            self._working(call)
            self.emit(call, load_estimate=to_message(models_pb2.LoadEstimate, found))

        base = self._session.load(command, report, estimated)
        self._token_rate = TokenRate()  # that of the model before says nothing about this one
        self._working(call)
        self.emit(call, resident=to_message(models_pb2.ResidentModel, base.describe(time.monotonic() - begin)))

    def _train(self, call: int, command: pb.Train) -> None:
        self._refuse_while_training("trained")
        base = self._session.base
        self._warm_up.wait()
        with gc_paused():
            from smolorad.engine.train.run import train  # TRL takes seconds to import, and most engines never train

        self._training = command.job_id
        self._scheduler.begin_training()
        try:
            trained = train(command, call, base, self)
        finally:
            self._training = None
            base.release_idle_memory()
        self.emit(call, trained=trained)

    def _count_tokens(self, call: int, command: generation_pb2.CountTokensRequest) -> None:
        spec = from_message(GenerateSpec, command)
        ids = encode(self._session.base, spec.prompt, spec.messages, parse_special=spec.parse_special)
        self.emit(call, counted=generation_pb2.CountTokensResponse(tokens=len(ids), token_ids=ids))

    def _refuse_while_training(self, what: str) -> None:
        if self._training is not None:
            raise BadState(
                f"No model can be {what} while a training runs; wait for it or cancel it with `smolora-client jobs`."
            )
