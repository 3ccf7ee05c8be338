"""Engine: the commands of the daemon to the engine process, with values of the domain."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from smolora.v1 import generation_pb2, settings_pb2
from smolorad.children.child import Child
from smolorad.domain import (
    ChatMessage,
    Checkpoint,
    Estimate,
    Evaluation,
    GenerateOutcome,
    GenerateSpec,
    LoadEstimate,
    LoadProgress,
    LoraSettings,
    Note,
    Placing,
    ResidentModel,
    Sample,
    TokenLogprob,
    Trained,
    TrainerSettings,
    TrainProgress,
)
from smolorad.errors import Internal
from smolorad.link.child import PREFIX_CACHE_FLAG
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb
from smolorad.paths import JobFolders

TrainEvent = TrainProgress | Evaluation | Checkpoint | Sample | Estimate | Note | Trained


@dataclass(frozen=True, slots=True)
class Training:
    """The inputs of a training."""

    dataset: Path  # a published folder
    lora: LoraSettings
    trainer: TrainerSettings
    parent: Path | None = None  # the published folder of the adapter whose training it continues
    tensorboard: Path | None = None  # where its TensorBoard files go


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """A published adapter, or one of a training's checkpoints."""

    key: str  # in the engine's memory; no two adapters share one
    name: str  # for messages
    path: Path


@dataclass(frozen=True, slots=True)
class LiveAdapter:
    """The adapter that the running training has now."""

    name: str  # without the step, which the engine knows
    job_id: str
    step: int | None = None  # the step that it must be at; None: any


@dataclass(frozen=True, slots=True)
class Pong:
    """The engine's state: seconds since its thread finished a step, memory in bytes, loaded adapters, recent speed.

    `stuck_s`: for how long it has worked on a call that was cancelled, or that keeps a load waiting; 0 for any other.
    """

    busy_s: float = 0.0
    rss_bytes: int = 0
    adapters: tuple[str, ...] = ()
    tokens_per_second: float = 0.0
    busy_call: int = 0
    stuck_s: float = 0.0
    cache_bytes: int = 0  # of generations under way
    prefix_cache_bytes: int = 0


class Engine(Protocol):
    """The process with the loaded model.

    Every stream ends with its result. Leaving one early cancels it. All raise the engine's errors, and EngineUnavailable where
    it has died.
    """

    @property
    def pid(self) -> int:
        """Its process id."""

    def load(
        self, path: Path, name: str, placing: Placing, trust_remote_code: bool
    ) -> AsyncGenerator[LoadProgress | LoadEstimate | ResidentModel, None]:
        """Loads a model, which replaces the one before once it is ready."""

    def generate(
        self, spec: GenerateSpec, adapter: AdapterFolder | LiveAdapter | None
    ) -> AsyncGenerator[str | TokenLogprob | GenerateOutcome, None]:
        """Generates, with or without an adapter."""

    async def count_tokens(self, prompt: str, messages: Sequence[ChatMessage], *, parse_special: bool) -> list[int]:
        """The ids of a prompt or a conversation."""

    async def decode_tokens(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids."""

    async def attach(self, key: str, path: Path) -> int:
        """Loads an adapter; returns the number of its parameters."""

    async def detach(self, key: str) -> None:
        """Unloads an adapter."""

    async def check_adapter(self, path: Path) -> int:
        """Checks that an adapter fits the loaded model; returns the number of its parameters."""

    def train(self, job_id: str, training: Training, folders: JobFolders) -> AsyncGenerator[TrainEvent, None]:
        """Trains an adapter into the job's output folder."""

    async def expect_training(self) -> None:
        """Prepares for a training that is likely to follow, beside other work."""

    async def pause_training(self) -> bool:
        """Asks the training to checkpoint at its next step and end with ShuttingDown; false where none runs."""

    async def ping(self) -> Pong:
        """Asks for the engine's state; the caller sets the time limit."""

    async def drain(self, grace_s: float) -> None:
        """Asks it to checkpoint and end by itself within the grace."""

    async def kill(self, why: str = "") -> None:
        """Kills it; `why` completes the error of its pending calls: "The engine <why> and was killed"."""

    async def wait(self) -> int:
        """Its exit status once it has ended."""


EngineFactory = Callable[[], Awaitable[Engine]]


class EngineProcess:
    """The real engine, in a child process."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._training: int | None = None  # the call of the training under way
        self._load: tuple[int, float] | None = None  # the call of a load, and when it was asked for, on the monotonic clock

    @classmethod
    async def start(cls, environ: Mapping[str, str], prefix_cache_disk_bytes: int = 0) -> EngineProcess:
        """Starts one. It never uses the network: the models that it loads are on the disk."""
        environ = {**environ, "HF_HUB_OFFLINE": "1"}
        arguments = (PREFIX_CACHE_FLAG, str(prefix_cache_disk_bytes)) if prefix_cache_disk_bytes else ()
        return cls(await Child.spawn("smolorad.engine", *arguments, name="engine", environ=environ))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    async def load(
        self, path: Path, name: str, placing: Placing, trust_remote_code: bool
    ) -> AsyncGenerator[LoadProgress | LoadEstimate | ResidentModel, None]:
        """See Engine."""
        command = pb.Load(path=str(path), name=name, trust_remote_code=trust_remote_code)
        command.MergeFrom(to_message(pb.Load, placing))
        number = self._child.next_number()
        self._load = number, time.monotonic()
        try:
            async with aclosing(self._child.call(number, load=command)) as events:
                async for event in events:
                    match event.WhichOneof("body"):
                        case "resident":
                            yield from_message(ResidentModel, event.resident)
                        case "load_estimate":
                            yield from_message(LoadEstimate, event.load_estimate)
                        case _:
                            yield from_message(LoadProgress, event.load_progress)
        finally:
            self._load = None

    async def generate(
        self, spec: GenerateSpec, adapter: AdapterFolder | LiveAdapter | None
    ) -> AsyncGenerator[str | TokenLogprob | GenerateOutcome, None]:
        """See Engine."""
        command = pb.Generate(request=to_message(generation_pb2.GenerateRequest, spec))
        if adapter is not None:
            command.adapter.CopyFrom(_adapter(adapter))
        async with aclosing(self._child.call(generate=command)) as events:
            async for event in events:
                match event.WhichOneof("body"):
                    case "outcome":
                        yield from_message(GenerateOutcome, event.outcome)
                    case "token_logprob":
                        yield from_message(TokenLogprob, event.token_logprob)
                    case _:
                        yield event.text

    async def count_tokens(self, prompt: str, messages: Sequence[ChatMessage], *, parse_special: bool) -> list[int]:
        """See Engine."""
        turns = [to_message(generation_pb2.ChatMessage, message) for message in messages]
        request = generation_pb2.CountTokensRequest(prompt=prompt, messages=turns, parse_special=parse_special)
        return list((await self._answer("counted", count_tokens=request)).token_ids)

    async def decode_tokens(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """See Engine."""
        request = generation_pb2.DecodeTokensRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        return str((await self._answer("decoded", decode_tokens=request)).text)

    async def attach(self, key: str, path: Path) -> int:
        """See Engine."""
        return int((await self._answer("attached", attach=pb.AdapterFolder(key=key, path=str(path)))).parameters)

    async def detach(self, key: str) -> None:
        """See Engine."""
        await self._answer("done", detach=pb.AdapterFolder(key=key))

    async def check_adapter(self, path: Path) -> int:
        """See Engine."""
        return int((await self._answer("attached", check_adapter=pb.CheckAdapter(adapter_path=str(path)))).parameters)

    async def train(self, job_id: str, training: Training, folders: JobFolders) -> AsyncGenerator[TrainEvent, None]:
        """See Engine."""
        command = pb.Train(
            job_id=job_id,
            dataset_path=str(training.dataset),
            lora=to_message(settings_pb2.LoraSettings, training.lora),
            trainer=to_message(settings_pb2.TrainerSettings, training.trainer),
            parent_path="" if training.parent is None else str(training.parent),
            tensorboard_path=str(training.tensorboard or ""),
            checkpoints_path=str(folders.checkpoints),
            stage_path=str(folders.stage),
            output_path=str(folders.output),
        )
        kinds: Mapping[str, type[TrainEvent]] = {
            "train": TrainProgress,
            "evaluation": Evaluation,
            "checkpoint": Checkpoint,
            "note": Note,
            "sample": Sample,
            "estimate": Estimate,
            "trained": Trained,
        }
        try:
            async with aclosing(self._child.call(train=command)) as events:
                async for event in events:
                    self._training = event.call
                    kind = event.WhichOneof("body") or ""
                    yield from_message(kinds[kind], getattr(event, kind))
        finally:
            self._training = None

    async def expect_training(self) -> None:
        """See Engine."""
        await self._answer("done", expect_training=pb.ExpectTraining())

    async def pause_training(self) -> bool:
        """See Engine."""
        if self._training is None:
            return False
        await self._child.send(pb.Command(call=self._training, pause=pb.Pause()))
        return True

    async def ping(self) -> Pong:
        """See Engine."""
        pong: Pong = from_message(Pong, await self._child.ping())
        return dataclasses.replace(pong, stuck_s=self._stuck_s(pong))

    def _stuck_s(self, pong: Pong) -> float:
        # A step that started late does not count the time that its cancelled call waited for it.
        left_s = min(self._child.left_s(pong.busy_call), pong.busy_s)
        if self._load is None or pong.busy_call in (0, self._load[0]):
            return left_s
        # A load is served between two steps: what keeps it waiting makes none.
        return max(left_s, min(time.monotonic() - self._load[1], pong.busy_s))

    async def drain(self, grace_s: float) -> None:
        """See Engine."""
        await self._child.drain(grace_s)

    async def kill(self, why: str = "") -> None:
        """See Engine."""
        await self._child.kill(why)

    async def wait(self) -> int:
        """See Engine."""
        return await self._child.wait()

    async def _answer(self, kind: str, **command: Any) -> Any:
        """The one event of a call that has no others."""
        async with aclosing(self._child.call(**command)) as events:
            async for event in events:
                return getattr(event, kind)
        raise Internal("The engine gave no answer; please report it with the daemon's log.")


def _adapter(adapter: AdapterFolder | LiveAdapter) -> pb.AdapterFolder:
    if isinstance(adapter, LiveAdapter):
        return pb.AdapterFolder(name=adapter.name, live=pb.LiveAdapter(job_id=adapter.job_id, step=adapter.step))
    return pb.AdapterFolder(key=adapter.key, name=adapter.name, path=str(adapter.path))
