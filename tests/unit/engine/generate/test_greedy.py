"""A hundred greedy answers of 128 tokens are transformers', token for token: base and adapters, alone and together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from smolora.v1 import generation_pb2
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native.decoder import NativeModel, Part
from smolorad.engine.serve.loop import EngineLoop
from smolorad.engine.serve.session import Session
from smolorad.link.child import Inbox
from smolorad.link.v1 import link_pb2 as pb
from tests.unit.engine.kit import fp32_base, make_adapter, plain_model

BEGINNINGS = (
    "The history of {} begins",
    "Question: What is {}?\nAnswer:",
    "def about_{}(text):\n",
    "A short letter on {}:\n\nDear friend,",
    "Five facts about {}, each with its year:\n1.",
    "In a small town by the sea, {} was",
    "Translate to French: I like {}.\n",
    '{{"subject": "{}", "summary": "',
    "Nobody in the village knew that {}",
    "To understand {}, one has to",
)
SUBJECTS = ("rivers", "bread", "chess", "winter", "bees", "maps", "tea", "glass", "trains", "music")
PROMPTS = [beginning.format(subject) for subject, beginning in itertools.product(SUBJECTS, BEGINNINGS)]
TOKENS = 128
TOKENS_AGAIN = 32  # of those asked a second time
TOGETHER = 8
FEW = 16  # asked a second time, and alone
# Where two logits are nearer than this, either may be the larger.
TIE = 1e-4


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt, and who is to answer it: an adapter's name, or empty for the base."""

    prompt: str
    adapter: str


# Every eight that are asked together are for all three.
QUESTIONS = [Question(prompt, ("", "one", "", "two")[at % 4]) for at, prompt in enumerate(PROMPTS)]


class Heard:
    """Where the daemon would be: keeps the outcomes that the engine tells."""

    def __init__(self) -> None:
        self.outcomes: dict[int, generation_pb2.GenerateOutcome] = {}

    def send(self, event: pb.Event) -> None:
        assert event.WhichOneof("body") in ("text", "outcome"), event
        if event.WhichOneof("body") == "outcome":
            self.outcomes[event.call] = event.outcome


class Engine:
    """The engine's loop over a model in this process, so that its native steps can be seen."""

    def __init__(self, base: BaseModel, adapters: dict[str, Path]) -> None:
        self._heard = Heard()
        self._inbox = Inbox(self._heard)  # type: ignore[arg-type]
        session = Session()
        # No token ends an answer: to the last one it is what the model says.
        session.use(dataclasses.replace(base, end_ids=frozenset()))
        self._loop = EngineLoop(self._inbox, session)
        self._folders = {name: pb.AdapterFolder(key=f"{name}@1", path=str(path)) for name, path in adapters.items()}
        self._calls = itertools.count(1)

    def ask(self, questions: Sequence[Question], tokens: int = TOKENS) -> list[generation_pb2.GenerateOutcome]:
        """The answers to questions that come at once."""
        sampling = generation_pb2.Sampling(temperature=0.0, max_tokens=tokens)
        calls = []
        for question, call in zip(questions, self._calls, strict=False):
            request = generation_pb2.GenerateRequest(prompt=question.prompt, sampling=sampling)
            command = pb.Generate(request=request, adapter=self._folders.get(question.adapter))
            self._inbox._queue.put(pb.Command(call=call, generate=command))
            calls.append(call)
        while not set(calls) <= self._heard.outcomes.keys():
            self._loop.yield_to_requests(0)
        return [self._heard.outcomes[call] for call in calls]


class Truth:
    """Plain transformers, and PEFT for adapters."""

    def __init__(self, base: BaseModel, folder: Path, adapters: dict[str, Path]) -> None:
        self._tokenizer = base.tokenizer
        (first, path), *others = adapters.items()
        self._model = PeftModel.from_pretrained(plain_model(folder), path, adapter_name=first)
        for name, path in others:
            self._model.load_adapter(path, name)
        self._model.eval()
        self._right: dict[Question, list[tuple[int, ...]]] = {}

    @torch.inference_mode()
    def check(self, question: Question, answer: Sequence[int]) -> None:
        """Fails unless each token is the likeliest after all that stand before it, which is how `generate` goes when greedy."""
        known = self._right.setdefault(question, [])
        if any(right[: len(answer)] == tuple(answer) for right in known):
            return
        ids = torch.tensor([[*self._tokenizer(question.prompt).input_ids, *answer]])
        with self._as(question.adapter):
            logits: Tensor = self._model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
        behind = logits.amax(dim=1) - logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        wrong = (behind > TIE).nonzero()[:, 0].tolist()
        assert not wrong, f"{question}: token {wrong[0] + 1} is {float(behind[wrong[0]]):.2g} behind the likeliest"
        known.append(tuple(answer))

    @contextlib.contextmanager
    def _as(self, adapter: str) -> Iterator[None]:
        if not adapter:
            with self._model.disable_adapter():
                yield
            return
        self._model.set_adapter(adapter, inference_mode=True)
        yield


@pytest.mark.long
@pytest.mark.model
@pytest.mark.timeout(1200)  # two minutes where nothing else runs
def test_greedy_equals_transformers(starter_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = {name: make_adapter(starter_model, tmp_path / name, seed=at, r=8) for at, name in enumerate(("one", "two"))}
    base = fp32_base(starter_model)
    engine, steps = Engine(base, adapters), watched_steps(monkeypatch)
    answers: list[tuple[Question, generation_pb2.GenerateOutcome]] = []
    for begin in range(0, len(QUESTIONS), TOGETHER):
        asked = QUESTIONS[begin : begin + TOGETHER]
        answers += zip(asked, engine.ask(asked), strict=True)
    fresh = sum(not outcome.usage.remembered_tokens for _, outcome in answers)
    assert fresh > len(answers) / 2  # the others begin as one before did
    assert max(len(step) for step in steps) == TOGETHER
    assert sum(len(step) for step in steps) / len(steps) > TOGETHER / 2  # some are done sooner, as their guesses were right
    assert any(len({id(part.lora) for part in step}) == len(adapters) + 1 for step in steps)

    # Shorter ones are not remembered, and of the others the last ones are.
    again = [question for question in QUESTIONS if len(base.tokenizer(question.prompt).input_ids) > 8][-FEW:]
    warm = list(
        zip(again, [one for i in (0, TOGETHER) for one in engine.ask(again[i : i + TOGETHER], TOKENS_AGAIN)], strict=True)
    )
    assert all(outcome.usage.remembered_tokens for _, outcome in warm)
    steps.clear()
    alone = [(question, Engine(base, adapters).ask([question], TOKENS_AGAIN)[0]) for question in QUESTIONS[:FEW]]
    assert {len(step) for step in steps} == {1}

    truth = Truth(base, starter_model, adapters)
    assert {outcome.usage.completion_tokens for _, outcome in answers} == {TOKENS}
    for question, outcome in [*answers, *warm, *alone]:
        truth.check(question, outcome.token_ids)


def watched_steps(monkeypatch: pytest.MonkeyPatch) -> list[list[Part]]:
    """The parts of each native step from now on."""
    seen: list[list[Part]] = []
    step = NativeModel.step

    def watched(self: NativeModel, parts: Sequence[Part]) -> Tensor:
        seen.append(list(parts))
        return step(self, parts)

    monkeypatch.setattr(NativeModel, "step", watched)
    return seen
