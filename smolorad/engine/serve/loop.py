"""The engine loop: takes commands, steps one thing, posts events. How a step goes:

1. Everything in the inbox is taken. With nothing to do, taking blocks: an idle engine sleeps in the kernel.
2. A command is served at once (load, attach, detach, count, decode), or it becomes a `GenerationRequest` in the scheduler
   (generate). `train` returns only when it is done, and calls `yield_to_requests` between micro-steps.
3. Whose turn it is makes one step: a chunk of its prompt, or one token, then together with all others that need one token
   and are computed by the same native step. What text is certain by then goes out.
4. A request that has its outcome sends it and leaves the scheduler.

While a training runs, `yield_to_requests` does the same for a slice of time that the scheduler measures: every request makes at
least one step, the training keeps at least half of the time. Load and train are refused then.

Another thread, the inbox's, hears Ping, Cancel and Drain at any time. A cancelled call is noticed before its next step.
What fails, fails alone: its call ends with a Failure and the loop goes on. Only a drain, or the daemon's end, ends the engine.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolora.v1 import generation_pb2, jobs_pb2, models_pb2
from smolorad.domain import GenerateSpec
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.registry import AdapterRegistry, read_adapter
from smolorad.engine.device_check import compare_with_cpu
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.prompt import decode, encode
from smolorad.engine.generate.prompt_lookup import Pace
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.load import load
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part
from smolorad.engine.runtime.errors import to_smolora_error
from smolorad.engine.runtime.gc import gc_paused
from smolorad.engine.serve.output_batcher import OutputBatcher
from smolorad.engine.serve.scheduler import Scheduler
from smolorad.engine.train.warmup import WarmUp, ready_to_train
from smolorad.errors import BadState, Cancelled, Internal, NoModel, NotFound, OutOfMemory, ShuttingDown, is_panic
from smolorad.link.child import Inbox
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb

log = logging.getLogger("smolorad.engine")

Snapshot = Callable[[], tuple[int, Adapter]]
Parts = Sequence[tuple[GenerationRequest, Part]]

_STOPPING = "The daemon is shutting down; ask again when it is back."


class EngineLoop:
    """What the engine does, one step at a time. It is the `Host` that a training breathes through."""

    def __init__(self, inbox: Inbox, threads: int | None = None) -> None:
        """`threads`: as in `load`."""
        self._inbox = inbox
        self._threads = threads
        self._base: BaseModel | None = None
        self._adapters: AdapterRegistry | None = None
        self._prefixes = PrefixCache()
        self._pace = Pace()
        self._schedule: Scheduler[GenerationRequest] = Scheduler()
        self._outlet = OutputBatcher(self.emit)
        self._training: int | None = None
        self._early = WarmUp(lambda: ready_to_train(self._base.dtype if self._base is not None else None))
        self._offered: Snapshot | None = None

    def run(self) -> None:
        """Works until the daemon drains the engine."""
        while not self.draining():
            self._take(block=not self._schedule)
            if self._schedule:
                self._turn(self._schedule.next())
        self._refuse_the_rest()

    # What a training asks.

    def yield_to_requests(self, call: int) -> None:
        """Between two micro-steps of training `call`: serves what is pending for a bounded slice.

        Raises Cancelled if somebody cancelled the training.
        """
        self._working(call)
        if not self.draining():
            self._take(block=False)
            for answer in self._schedule.slice():
                self._turn(answer)
                self._take(block=False)
                if self.draining():
                    break
            self._outlet.flush()
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
        """Sends one event of a call."""
        self._inbox.emit(call, **body)

    def offer(self, call: int, snapshot: Snapshot | None, between: str = "") -> None:
        """Lets generations have the adapter of training `call` as it is after a step; None takes that back."""
        self._offered = snapshot
        if between:
            self.emit(call, note=jobs_pb2.Note(text=f"Generations are answered between {between}."))

    # One step.

    def _take(self, *, block: bool) -> None:
        if block:
            self._inbox.idle()
        while (command := self._inbox.take(block=block)) is not None and command.WhichOneof("body") != "drain":
            block = False
            self._working(command.call)
            with self._answering(command.call):
                self._serve(command)

    def _turn(self, answer: GenerationRequest) -> None:
        """One step of an answer, and of those that the native step can compute with it: weights are read once for all."""
        self._working(answer.call)
        if not answer.tokens:  # a prompt's step may take a while
            self._outlet.flush()
        native = answer.native
        company = [answer] if native is None or self._inbox.cancelled(answer.call) else self._company(answer)
        begin, before = time.monotonic(), [one.tokens for one in company]
        if native is None or len(company) < 2:
            self._step(answer)
        else:
            self._step_together(native, company)
        made = sum(one.tokens for one in company) - sum(before)
        if made and all(before):  # a prompt's time is not a token's
            self._pace.add((time.monotonic() - begin) / made)
        self._working(answer.call)

    def _step_together(self, native: NativeModel, company: Sequence[GenerationRequest]) -> None:
        if not (parts := list(self._parts(company))):
            return
        # The first one's call fails with the step that all make together; the others are tried again without it.
        with self._answering(parts[0][0].call, parts[0][0]):
            for one, own in self._logits(native, parts):
                self._schedule.went(one)
                self._step(one, own)

    def _logits(self, native: NativeModel, parts: Parts) -> list[tuple[GenerationRequest, NDArray[np.float32] | None]]:
        """What the native step computes for each; where memory is short nothing, and for the first alone."""
        ends = np.cumsum([len(part.tokens) if part.every else 1 for _, part in parts])
        try:
            logits = np.split(native.step([part for _, part in parts]), ends[:-1])
        except MemoryError:
            return [(parts[0][0], None)]
        return [(one, own) for (one, _), own in zip(parts, logits, strict=True)]

    def _company(self, answer: GenerationRequest) -> list[GenerationRequest]:
        """The answer, and the others whose next step the same native step computes."""
        others = (one for one in self._schedule.all() if one is not answer and one.native is answer.native)
        return [answer, *(one for one in others if not self._inbox.cancelled(one.call))][:MAX_ROWS]

    def _parts(self, company: Sequence[GenerationRequest]) -> Iterator[tuple[GenerationRequest, Part]]:
        """Their tokens for one step: each has one at least, and who comes first has the most. One that fails has none."""
        room = MAX_ROWS
        for after, one in zip(reversed(range(len(company))), company, strict=True):
            with self._answering(one.call, one):
                part = one.part(room - after)
                room -= len(part.tokens)
                yield one, part

    def _step(self, answer: GenerationRequest, logits: NDArray[np.float32] | None = None) -> None:
        with self._answering(answer.call, answer):
            text = answer.cancel() if self._inbox.cancelled(answer.call) else answer.step(logits)
            self._outlet.push(answer.call, text, answer.logprobs())
            if answer.outcome is not None:
                self._schedule.remove(answer)
                self._outlet.end(answer.call)
                self.emit(answer.call, outcome=to_message(generation_pb2.GenerateOutcome, answer.outcome))
                self._inbox.forget(answer.call)

    @contextlib.contextmanager
    def _answering(self, call: int, answer: GenerationRequest | None = None) -> Iterator[None]:
        """Whatever goes wrong inside ends the call, and the call alone."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            told = to_smolora_error(error)
            if isinstance(told, Internal):
                log.exception("call %d failed", call)
            if answer is not None:
                self._outlet.end(call)
                if answer in self._schedule:
                    self._schedule.remove(answer)
            if isinstance(told, OutOfMemory) and self._base is not None:
                self._base.release_idle_memory()
            self._inbox.fail(call, told)
            self._inbox.forget(call)

    def _working(self, call: int) -> None:
        adapters = self._adapters.keys() if self._adapters is not None else ()
        self._inbox.working(call, adapters=adapters, tokens_per_second=1 / self._pace.seconds if self._pace.seconds else 0.0)

    def _refuse_the_rest(self) -> None:
        for answer in self._schedule.all():
            self._outlet.end(answer.call)
            self._inbox.fail(answer.call, ShuttingDown(_STOPPING))
        self._take(block=False)

    # What the daemon asks.

    def _serve(self, command: pb.Command) -> None:
        if self.draining():
            raise ShuttingDown(_STOPPING)
        call = command.call
        if self._inbox.cancelled(call):  # while it waited
            raise Cancelled("The call was cancelled.")
        match command.WhichOneof("body"):
            case "generate":
                self._schedule.add(self._answer(call, command.generate))
                return  # the call goes on
            case "load":
                self._load(call, command.load)
            case "train":
                self._train(call, command.train)
            case "attach":
                parameters = self._adapter(command.attach).parameters
                self._working(call)  # whoever knows that it is there finds it in Pong
                self.emit(call, attached=pb.Attached(parameters=parameters))
            case "check_adapter":
                checked = read_adapter(self._resident(), Path(command.check_adapter.adapter_path))
                self.emit(call, attached=pb.Attached(parameters=checked.parameters))
            case "expect_training":
                self._early.start()
                self.emit(call, done=pb.Done())
            case "detach":
                if self._adapters is not None:
                    self._adapters.detach(command.detach.key)
                    self._prefixes.forget(command.detach.key)
                self._working(call)
                self.emit(call, done=pb.Done())
            case "count_tokens":
                self._count_tokens(call, command.count_tokens)
            case "decode_tokens":
                request = command.decode_tokens
                text = decode(self._resident(), request.token_ids, skip_special_tokens=request.skip_special_tokens)
                self.emit(call, decoded=generation_pb2.DecodeTokensResponse(text=text))
            case other:
                raise Internal(f"The engine does not know the command {other!r}; daemon and engine are of different versions.")
        self._inbox.forget(call)

    def _answer(self, call: int, command: pb.Generate) -> GenerationRequest:
        base = self._resident()
        adapter, key = self._adapter(command.adapter) if command.HasField("adapter") else None, command.adapter.key
        if adapter is not None and not command.adapter.path:
            # With the job that follows the `#`: the next training of this name has such a step too.
            key = re.sub("@[^#]*", f"@step-{self._live()[0]}", key)
        spec = from_message(GenerateSpec, command.request)
        return GenerationRequest(call, base, adapter, key, spec, self._inbox.arrived(call), self._prefixes)

    def _load(self, call: int, command: pb.Load) -> None:
        self._refuse_while_training("loaded")
        begin = time.monotonic()

        def report(progress: Any) -> None:
            self._working(call)
            if self._inbox.cancelled(call):
                raise Cancelled("The loading was cancelled.")
            self.emit(call, load_progress=to_message(models_pb2.LoadProgress, progress))

        options = from_message(LoadOptions, command)
        base = load(Path(command.path), command.name, options, compare_with_cpu, threads=self._threads, report=report)
        # Only now does the one before go; answers that it has begun are still its own.
        self._base, self._adapters, self._prefixes = base, AdapterRegistry(base), PrefixCache()
        base.release_idle_memory()
        self.emit(call, resident=to_message(models_pb2.ResidentModel, base.describe(time.monotonic() - begin)))

    def _train(self, call: int, command: pb.Train) -> None:
        self._refuse_while_training("trained")
        base = self._resident()
        self._early.wait()
        with gc_paused():
            from smolorad.engine.train.run import train  # TRL takes seconds to import, and most engines never train

        self._training = call
        self._schedule.begin_training()
        try:
            trained = train(command, call, base, self)
        finally:
            self._training = None
            base.release_idle_memory()
        self.emit(call, trained=trained)

    def _count_tokens(self, call: int, command: generation_pb2.CountTokensRequest) -> None:
        spec = from_message(GenerateSpec, command)
        ids = encode(self._resident(), spec.prompt, spec.messages, parse_special=spec.parse_special)
        self.emit(call, counted=generation_pb2.CountTokensResponse(tokens=len(ids), token_ids=ids))

    def _resident(self) -> BaseModel:
        if self._base is None:
            raise NoModel("No model is loaded; load one with `smolora-client load MODEL`.")
        return self._base

    def _live(self) -> tuple[int, Adapter]:
        """What the training that runs has to offer; raises NotFound where there is none."""
        if self._offered is None:
            raise NotFound("No training has come to its first step yet; ask again in a moment, or name a finished adapter.")
        return self._offered()

    def _adapter(self, folder: pb.AdapterFolder) -> Adapter:
        self._resident()
        if not folder.path:
            step, adapter = self._live()
            wanted = folder.key.partition("@")[2].partition("#")[0]
            if wanted not in ("latest", f"step-{step}"):
                raise NotFound(f"The training is at step {step}, and {wanted} is no checkpoint; ask for it as @latest.")
            return adapter
        assert self._adapters is not None
        return self._adapters.attach(folder.key, Path(folder.path))

    def _refuse_while_training(self, what: str) -> None:
        if self._training is not None:
            raise BadState(
                f"No model can be {what} while a training runs; wait for it or cancel it with `smolora-client jobs`."
            )
