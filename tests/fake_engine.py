"""Stand-ins for the children, so that the daemon around them can be tested without a model.

They keep the promises of `Engine` and `Workers`; what they say is scripted, and what they were asked is recorded.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smolorad.children.engine import AdapterFolder, LiveAdapter, Pong, TrainEvent, Training
from smolorad.domain import (
    ChatMessage,
    Checkpoint,
    Device,
    Dtype,
    Estimate,
    Evaluation,
    Fetched,
    FinishReason,
    GenerateOutcome,
    GenerateSpec,
    LoadEstimate,
    LoadProgress,
    LoadStage,
    Merged,
    Note,
    PhaseProgress,
    Placing,
    Prepared,
    ResidentModel,
    Sample,
    Timings,
    TokenLogprob,
    Trained,
    TrainProgress,
    Usage,
)
from smolorad.errors import EngineUnavailable, SmoloraError
from smolorad.paths import JobFolders

FINGERPRINT = "f" * 64
_PIDS = itertools.count(2**22 + 1)  # above every real one


@dataclass(frozen=True, slots=True)
class Death:
    """The process dies here."""

    status: int = -9


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing happens until the event is set."""

    until: asyncio.Event


@dataclass(frozen=True, slots=True)
class Reached:
    """Sets the event."""

    event: asyncio.Event


Action = Death | Wait | Reached | SmoloraError
Step = Action | str | TokenLogprob | TrainEvent | LoadProgress | LoadEstimate | PhaseProgress | Prepared | Merged | Fetched


@dataclass
class Script:
    """What comes next, and what was asked; shared by an engine and those started after its death."""

    answers: deque[list[Step]] = field(default_factory=deque)
    trainings: deque[list[Step]] = field(default_factory=deque)
    loads: deque[list[Step]] = field(default_factory=deque)
    work: deque[list[Step]] = field(default_factory=deque)
    calls: list[tuple[str, object]] = field(default_factory=list)
    estimates: deque[LoadEstimate | SmoloraError] = field(default_factory=deque)  # what dry runs answer
    served: list[tuple[str, str]] = field(default_factory=list)  # calls, with the model that was loaded when they began
    cancelled: list[str] = field(default_factory=list)
    merges_expected: list[tuple[float, Path | None]] = field(default_factory=list)  # within how many seconds, into what
    misfits: deque[SmoloraError] = field(default_factory=deque)  # why the next adapters that are checked do not fit
    fingerprint: str = FINGERPRINT
    drains: deque[list[Step]] = field(default_factory=deque)

    def enqueue(self, *steps: Step) -> None:
        """The steps of the next answer."""
        self.answers.append(list(steps))

    def checked(self, adapter: Path) -> int:
        """The parameters of an adapter, unless it is to be refused."""
        if self.misfits:
            raise self.misfits.popleft()
        return 10


def next_steps(queue: deque[list[Step]], default: list[Step]) -> list[Step]:
    """The next scripted steps, or the default ones."""
    return queue.popleft() if queue else default


class FakeEngine:
    """An engine in this process. Without a script it answers "Hello world" and trains two steps.

    As in the real one, a load keeps its one thread: calls that come meanwhile are served with the new model.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.pid = next(_PIDS)
        self.adapters: dict[str, Path] = {}
        self.resident: ResidentModel | None = None
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._thread = asyncio.Lock()

    async def load(
        self, path: Path, name: str, placing: Placing, trust_remote_code: bool
    ) -> AsyncGenerator[LoadProgress | LoadEstimate | ResidentModel, None]:
        """See Engine."""
        self.script.calls.append(("load", (path, name, placing, trust_remote_code)))
        default: list[Step] = [LoadProgress(LoadStage.READ, 1, 2), LoadProgress(LoadStage.WARM_UP)]
        async with self._thread:
            async for step in self._play("load", next_steps(self.script.loads, default)):
                if isinstance(step, LoadProgress | LoadEstimate):
                    yield step
            self._become(name, placing)
        assert self.resident is not None
        yield self.resident

    def _become(self, name: str, placing: Placing) -> None:
        self.adapters.clear()
        self.resident = ResidentModel(
            name=name,
            fingerprint=self.script.fingerprint,
            architecture="llama",
            parameters=1000,
            device=placing.device or Device.CPU,
            dtype=placing.dtype or Dtype.FLOAT32,
            weight_bytes=4000,
            memory_bytes=4000,
            context_length=512,
            has_chat_template=True,
            precision=placing.precision,
        )

    async def generate(
        self, spec: GenerateSpec, adapter: AdapterFolder | LiveAdapter | None
    ) -> AsyncGenerator[str | TokenLogprob | GenerateOutcome, None]:
        """See Engine."""
        self.script.calls.append(("generate", (spec, adapter)))
        await self._served("generate")
        count = 0
        async for step in self._play("generate", next_steps(self.script.answers, ["Hello", " world"])):
            if isinstance(step, str | TokenLogprob):
                count += isinstance(step, str)
                yield step
        yield GenerateOutcome(
            finish_reason=FinishReason.STOP,
            usage=Usage(len(spec.prompt.split()), count),
            timings=Timings(),
            sampling=spec.sampling,
            model=self.resident.name if self.resident else "",
            adapter=adapter.name if adapter else "",
            token_ids=tuple(range(count)),
        )

    async def count_tokens(self, prompt: str, messages: Sequence[ChatMessage], *, parse_special: bool) -> list[int]:
        """See Engine: a token for each word."""
        self._check_alive()
        return list(range(len((prompt or " ".join(message.content for message in messages)).split())))

    async def decode_tokens(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """See Engine: a word for each token; token 0 is the special one."""
        self._check_alive()
        return " ".join(f"w{token}" for token in token_ids if token or not skip_special_tokens)

    async def attach(self, key: str, path: Path) -> int:
        """See Engine."""
        self._check_alive()
        await self._served("attach")
        self.adapters[key] = path
        return 10

    async def detach(self, key: str) -> None:
        """See Engine."""
        self._check_alive()
        self.adapters.pop(key, None)

    async def check_adapter(self, path: Path) -> int:
        """See Engine: refuses what the script says."""
        self._check_alive()
        await self._served("check_adapter")
        return self.script.checked(path)

    async def train(self, job_id: str, training: Training, folders: JobFolders) -> AsyncGenerator[TrainEvent, None]:
        """See Engine."""
        self.script.calls.append(("train", (job_id, training, folders)))
        await self._served("train")
        default: list[Step] = [
            Evaluation(0, 3.0, 20.1, 1, 0.1),
            TrainProgress(1, 2, loss=3.0),
            Checkpoint(1),
            TrainProgress(2, 2, loss=2.0),
            Evaluation(2, 2.0, 7.4, 1, 0.1),
        ]
        async for step in self._play("train", next_steps(self.script.trainings, default)):
            if isinstance(step, TrainProgress | Evaluation | Checkpoint | Sample | Estimate | Note | Trained):
                yield step
        folders.output.mkdir(parents=True)
        (folders.output / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
        (folders.output / "adapter_model.safetensors").write_bytes(b"weights")
        yield Trained(2, 2.5, 3.0, 2.0, 10, training.lora)

    async def expect_training(self) -> None:
        """See Engine."""
        self._check_alive()
        self.script.calls.append(("expect_training", None))

    async def pause_training(self) -> bool:
        """See Engine."""
        self.script.calls.append(("pause_training", None))
        return False

    async def ping(self) -> Pong:
        """See Engine."""
        self._check_alive()
        return Pong(0.0, 1, tuple(self.adapters))

    async def drain(self, grace_s: float) -> None:
        """See Engine."""
        self.script.calls.append(("drain", grace_s))
        async for _ in self._play("drain", next_steps(self.script.drains, [])):
            pass
        self.die(0)

    async def kill(self, why: str = "") -> None:
        """See Engine."""
        self.die(-9)

    async def wait(self) -> int:
        """See Engine."""
        return await asyncio.shield(self._status)

    def die(self, status: int = -9) -> None:
        """Its process ends."""
        if not self._status.done():
            self._status.set_result(status)

    async def _play(self, name: str, steps: Iterable[Step]) -> AsyncGenerator[Step, None]:
        done = False
        try:
            for step in steps:
                self._check_alive()
                match step:
                    case Death(status=status):
                        self.die(status)
                        self._check_alive()
                    case SmoloraError():
                        done = True
                        raise step
                    case Wait(until=event):
                        await self._wait_for(event)
                    case Reached(event=event):
                        event.set()
                    case _:
                        yield step
            self._check_alive()
            done = True
        finally:
            if not done and not self._status.done():
                self.script.cancelled.append(name)

    async def _served(self, name: str) -> None:
        async with self._thread:
            self.script.served.append((name, self.resident.name if self.resident else ""))

    async def _wait_for(self, event: asyncio.Event) -> None:
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait((waiting, self._status), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        self._check_alive()

    def _check_alive(self) -> None:
        if self._status.done():
            raise EngineUnavailable("The engine was ended by SIGKILL; try again.")
