"""The engine process over its socket: streams, turns, cancelling, failures that stay alone, and its end."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from smolora.v1 import common_pb2, generation_pb2, settings_pb2
from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native.decoder import NativeModel, Part
from smolorad.engine.serve.loop import EngineLoop
from smolorad.engine.serve.session import Session
from smolorad.link.child import Inbox
from smolorad.link.convert import to_message
from smolorad.link.frames import Frames
from smolorad.link.v1 import link_pb2 as pb
from tests.engine_process import EngineProcess, engine_process
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, make_adapter, spec
from tests.unit.engine.train.train_kit import write_dataset

_ENDLESS = 200_000  # tokens

FP32 = {"device": common_pb2.DEVICE_CPU, "dtype": common_pb2.DTYPE_FLOAT32}


@pytest.fixture(scope="module")
def engine(llama_folder: Path) -> Iterator[EngineProcess]:
    """An engine with the tiny llama resident in fp32."""
    with engine_process(OMP_NUM_THREADS="1") as engine:
        assert engine.load(llama_folder, **FP32).WhichOneof("body") == "resident"
        yield engine


@pytest.fixture(scope="module")
def training_engine(llama_folder: Path) -> Iterator[EngineProcess]:
    """Another one, for the tests that train: to import TRL takes seconds."""
    with engine_process(OMP_NUM_THREADS="1") as engine:
        assert engine.load(llama_folder, **FP32).WhichOneof("body") == "resident"
        yield engine


@pytest.fixture(scope="module")
def endless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can speak for longer than any test waits."""
    return tiny_model(tmp_path_factory.mktemp("endless"), max_position_embeddings=_ENDLESS)


def endless() -> pb.Generate:
    """An answer that is still under way whenever the test gets round to it."""
    return generate("A", max_tokens=_ENDLESS // 2, min_tokens=_ENDLESS // 2)


def generate(prompt: str = "", adapter: pb.AdapterFolder | None = None, **sampling: Any) -> pb.Generate:
    settings = generation_pb2.Sampling(**{"temperature": 0.0, **sampling})
    return pb.Generate(request=generation_pb2.GenerateRequest(prompt=prompt, sampling=settings), adapter=adapter)


def live(name: str, job_id: str = "job", **step: int) -> pb.AdapterFolder:
    """What the running training has now."""
    return pb.AdapterFolder(name=name, live=pb.LiveAdapter(job_id=job_id, **step))


def formed(prompt: str, **form: Any) -> pb.Generate:
    command = generate(prompt)
    command.request.response_format.CopyFrom(generation_pb2.ResponseFormat(**form))
    return command


def answer(engine: EngineProcess, command: pb.Generate) -> tuple[str, generation_pb2.GenerateOutcome]:
    *pieces, last = engine.events(engine.send(generate=command))
    return "".join(piece.text for piece in pieces), last.outcome


def test_an_answer_is_streamed_and_its_outcome_tells_everything(engine: EngineProcess, llama: BaseModel) -> None:
    expected_text, expected = finish(begin(llama, spec("The quick", max_tokens=40)))
    *pieces, last = engine.events(engine.send(generate=generate("The quick", max_tokens=40)))
    outcome = last.outcome
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == expected_text
    assert expected_text == llama.tokenizer.decode(outcome.token_ids, skip_special_tokens=True)
    assert tuple(outcome.token_ids) == expected.token_ids
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (expected.usage.prompt_tokens, 40)
    assert outcome.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert outcome.model == "tiny"
    sampling = outcome.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (40, 0.0, 1.0, 0)
    assert sampling.HasField("seed")
    timings = outcome.timings
    assert 0 <= timings.queued_s <= timings.first_token_s
    assert timings.prefill_s > 0
    assert timings.decode_s > 0


def test_a_stop_string_ends_it_and_is_no_part_of_it(engine: EngineProcess) -> None:
    whole, _ = answer(engine, generate("The quick", max_tokens=40))
    stop = whole[7:10]
    text, outcome = answer(engine, generate("The quick", max_tokens=40, stop=[stop]))
    assert text == whole[: whole.index(stop)]
    assert outcome.finish_reason == common_pb2.FINISH_REASON_STOP
    assert outcome.usage.completion_tokens < 40


def test_log_probabilities_come_before_the_text_that_they_are_part_of(engine: EngineProcess, llama: BaseModel) -> None:
    command = generate("The quick", max_tokens=20)
    command.request.logprobs, command.request.top_logprobs = True, 2
    *events, last = engine.events(engine.send(generate=command))
    spoken, text = b"", ""
    for event in events:
        match event.WhichOneof("body"):
            case "token_logprob":
                spoken += event.token_logprob.token_bytes
                assert len(event.token_logprob.top_logprobs) == 2
            case "text":
                text += event.text
                assert spoken.decode(errors="replace").startswith(text)
    told = [event.token_logprob.token_id for event in events if event.WhichOneof("body") == "token_logprob"]
    assert told == list(last.outcome.token_ids)
    assert text == finish(begin(llama, spec("The quick", max_tokens=20)))[0]


def test_answers_of_a_form_and_free_ones_share_their_steps(engine: EngineProcess, llama: BaseModel) -> None:
    free = finish(begin(llama, spec("The quick", max_tokens=40)))[1].token_ids
    calls = [engine.send(generate=generate("The quick", max_tokens=40))]
    for regex in ("[a-z]{20}", "[0-9]{20}"):
        calls.append(engine.send(generate=formed("The quick", regex=regex)))
    texts, outcomes = dict.fromkeys(calls, ""), {}
    while len(outcomes) < len(calls):
        event = engine.receive()
        if event.WhichOneof("body") == "outcome":
            outcomes[event.call] = event.outcome
        else:
            texts[event.call] += event.text
    assert tuple(outcomes[calls[0]].token_ids) == free
    assert re.fullmatch("[a-z]{20}", texts[calls[1]])
    assert re.fullmatch("[0-9]{20}", texts[calls[2]])


def test_a_cancel_is_seen_before_the_next_token(endless_folder: Path) -> None:
    with engine_process(OMP_NUM_THREADS="1") as engine:
        engine.load(endless_folder, **FP32)
        call = engine.send(generate=endless())
        assert engine.receive().text
        engine.cancel(call)
        engine.ping(77)
        events: dict[str, list[pb.Event]] = defaultdict(list)
        while not (events["pong"] and events["outcome"]):
            event = engine.receive()
            # The thread that answers the ping has noted the cancel before: what comes after is the step that was under way.
            kind = "late" if events["pong"] and event.text else str(event.WhichOneof("body"))
            events[kind].append(event)
        (last,) = events["outcome"]
        assert last.outcome.finish_reason == common_pb2.FINISH_REASON_CANCELLED
        assert len(events["late"]) <= 2  # that step's text, and a character that it left incomplete
        assert last.outcome.usage.completion_tokens < _ENDLESS // 2


def test_answers_that_come_at_once_take_turns(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    adapters = [None, *(pb.AdapterFolder(key=f"{i}@1", path=str(make_adapter(llama_folder, tmp_path / i))) for i in "ab")]
    ours, theirs = (contextlib.closing(Frames(end)) for end in socket.socketpair())
    with ours as daemon, theirs as frames:
        loop = EngineLoop(inbox := Inbox(frames), Session())
        loop._session.use(llama)
        for call, adapter in enumerate(adapters):
            inbox._queue.put(pb.Command(call=call, generate=generate("The quick", adapter, max_tokens=60)))
        loop.yield_to_requests(0)
        while loop._scheduler:
            loop.yield_to_requests(0)
        spoken = set()
        while (event := daemon.receive(pb.Event)).WhichOneof("body") == "text":
            spoken.add(event.call)
    assert spoken == {0, 1, 2}  # before the first of them ended


def test_answers_at_once_equal_their_solo_runs(
    engine: EngineProcess, llama: BaseModel, llama_folder: Path, tmp_path: Path
) -> None:
    folders = [make_adapter(llama_folder, tmp_path / str(i), seed=i) for i in (1, 2)]
    models = [None, *(AdapterRegistry(llama).attach("a", folder) for folder in folders)]
    alone = [finish(begin(llama, spec("The quick", max_tokens=60), model))[1].token_ids for model in models]
    adapters = [None, *(pb.AdapterFolder(key=f"a@{i + 1}", path=str(f)) for i, f in enumerate(folders))]
    calls = [engine.send(generate=generate("The quick", adapter, max_tokens=60)) for adapter in adapters]
    outcomes: dict[int, generation_pb2.GenerateOutcome] = {}
    while len(outcomes) < len(calls):
        event = engine.receive()
        if event.WhichOneof("body") == "outcome":
            outcomes[event.call] = event.outcome
    assert [tuple(outcomes[call].token_ids) for call in calls] == alone
    assert [outcomes[call].adapter for call in calls] == ["", "a@1", "a@2"]


def test_adapters_are_attached_told_and_forgotten(engine: EngineProcess, llama_folder: Path, tmp_path: Path) -> None:
    folder = make_adapter(llama_folder, tmp_path / "a")
    attached = engine.call(attach=pb.AdapterFolder(key="new@1", path=str(folder))).attached
    assert attached.parameters > 0
    engine.ping(1)
    assert "new@1" in engine.receive().pong.adapters
    assert engine.call(detach=pb.AdapterFolder(key="new@1")).WhichOneof("body") == "done"
    engine.ping(2)
    assert "new@1" not in engine.receive().pong.adapters


def test_tokens_are_counted(engine: EngineProcess, llama: BaseModel) -> None:
    counted = engine.call(count_tokens=generation_pb2.CountTokensRequest(prompt="A daemon keeps")).counted
    decoded = engine.call(decode_tokens=generation_pb2.DecodeTokensRequest(token_ids=counted.token_ids)).decoded
    assert decoded.text == "A daemon keeps"
    assert list(counted.token_ids) == llama.tokenizer("A daemon keeps").input_ids
    assert counted.tokens == len(counted.token_ids)


def test_what_fails_fails_alone(engine: EngineProcess, llama: BaseModel, tmp_path: Path) -> None:
    expected = finish(begin(llama, spec("The quick", max_tokens=30)))[1].token_ids
    good = engine.send(generate=generate("The quick", max_tokens=30))
    bad = {
        engine.send(generate=generate("A" * 600)): "PROMPT_TOO_LONG",
        engine.send(generate=generate("")): "INVALID_REQUEST",
        engine.send(generate=generate("A", pb.AdapterFolder(key="no@1", path=str(tmp_path / "no")))): "NOT_FOUND",
        engine.send(load=pb.Load(path=str(tmp_path), name="broken")): "UNSUPPORTED_MODEL",
        engine.send(generate=formed("A", json_schema='{"not": {}}')): "INVALID_REQUEST",
        engine.send(): "INTERNAL",
    }
    seen: dict[int, str] = {}
    ids: tuple[int, ...] = ()
    while len(seen) < len(bad) or not ids:
        event = engine.receive()
        match event.WhichOneof("body"):
            case "failure":
                seen[event.call] = event.failure.reason
                assert event.failure.message
                assert "\n" not in event.failure.message
            case "outcome":
                assert event.call == good
                ids = tuple(event.outcome.token_ids)
    assert seen == bad
    assert ids == expected


def test_a_failed_load_leaves_the_old_model_answering(engine: EngineProcess, llama_folder: Path, tmp_path: Path) -> None:
    before = answer(engine, generate("The quick", max_tokens=20))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((llama_folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((llama_folder / "model.safetensors").read_bytes()[:-100])
    assert engine.load(tmp_path, "cut", **FP32).failure.reason == "DAMAGED"
    text, outcome = answer(engine, generate("The quick", max_tokens=20))
    assert (text, outcome.model) == (before[0], "tiny")


def test_the_speed_of_the_model_before_is_forgotten(engine: EngineProcess, llama_folder: Path) -> None:
    answer(engine, generate("The quick", max_tokens=20))
    engine.ping(3)
    assert engine.receive().pong.tokens_per_second > 0
    engine.load(llama_folder, **FP32)
    engine.ping(4)
    assert engine.receive().pong.tokens_per_second == 0


def endless_training(root: Path, **settings: Any) -> pb.Train:
    trainer = TrainerSettings(**{"max_steps": 100_000, "logging_steps": 1, **settings})
    return pb.Train(
        job_id="job",
        dataset_path=str(write_dataset(root / "data")),
        lora=to_message(settings_pb2.LoraSettings, LoraSettings()),
        trainer=to_message(settings_pb2.TrainerSettings, trainer),
        checkpoints_path=str(root / "checkpoints"),
        stage_path=str(root / "stage"),
        output_path=str(root / "output"),
    )


def test_while_a_training_runs_everything_short_is_served(
    training_engine: EngineProcess, llama_folder: Path, llama: BaseModel, tmp_path: Path
) -> None:
    expected = finish(begin(llama, spec("The quick", max_tokens=30)))[1].token_ids
    adapter = pb.AdapterFolder(key="a@1", path=str(make_adapter(llama_folder, tmp_path / "adapter")))
    train = endless_training(tmp_path)
    engine = training_engine
    training = engine.send(train=train)
    while engine.receive().WhichOneof("body") != "train":
        pass
    assert tuple(answer(engine, generate("The quick", max_tokens=30))[1].token_ids) == expected
    assert answer(engine, generate("The quick", adapter, max_tokens=30))[1].adapter == "a@1"
    now = answer(engine, generate("The quick", live("b"), max_tokens=3))[1].adapter
    assert re.fullmatch(r"b@step-[1-9][0-9]*", now)
    past = engine.call(generate=generate("The quick", live("b", step=0), max_tokens=3))
    assert past.failure.reason == "NOT_FOUND"
    another = engine.call(generate=generate("The quick", live("b", job_id="before"), max_tokens=3))
    assert another.failure.reason == "NOT_FOUND"
    assert another.failure.message.startswith("Job before does not train any more; ")
    assert engine.call(count_tokens=generation_pb2.CountTokensRequest(prompt="A")).counted.tokens == 1
    assert engine.load(llama_folder).failure.reason == "BAD_STATE"
    assert engine.call(train=train).failure.reason == "BAD_STATE"
    engine.cancel(training)
    *_, last = engine.events(training)
    assert last.failure.reason == "CANCELLED"
    assert not (tmp_path / "checkpoints").exists()
    gone = generate("The quick", live("b"), max_tokens=3)
    assert engine.call(generate=gone).failure.reason == "NOT_FOUND"
    assert tuple(answer(engine, generate("The quick", max_tokens=30))[1].token_ids) == expected
    training = engine.send(train=train)
    while engine.receive().WhichOneof("body") != "train":
        pass
    engine.pause(training)
    *_, told, last = engine.events(training)
    assert (last.failure.reason, told.WhichOneof("body")) == ("SHUTTING_DOWN", "checkpoint")
    assert (tmp_path / "checkpoints" / str(told.checkpoint.step)).is_dir()
    assert tuple(answer(engine, generate("The quick", max_tokens=30))[1].token_ids) == expected


@pytest.mark.parametrize(
    ("trainer", "most"),
    [("fast", 10), pytest.param("fast", 50, marks=pytest.mark.long), pytest.param("plain", 50, marks=pytest.mark.long)],
)
def test_many_answers_meanwhile_change_no_bit_of_the_adapter(
    training_engine: EngineProcess, llama_folder: Path, tmp_path: Path, trainer: str, most: int
) -> None:
    """Four answers at each of `most` steps."""
    adapter = pb.AdapterFolder(key="other@1", path=str(make_adapter(llama_folder, tmp_path / "adapter")))
    asked = (
        generate("The quick", max_tokens=8),
        generate("The quick", adapter, max_tokens=8),
        generate("The quick", max_tokens=8, temperature=1.0, top_p=0.9),
        generate("A", live("b"), max_tokens=8, temperature=1.0),
    )
    made = []
    engine = training_engine
    for name, rounds in (("alone", 0), ("with answers", most)):
        train = endless_training(
            tmp_path / name, max_steps=most + most // 2 + 5, gradient_accumulation_steps=2, trainer=trainer
        )
        training, answered, notes = engine.send(train=train), 0, []
        while (event := engine.receive()).WhichOneof("body") != "trained":
            assert event.WhichOneof("body") != "failure"
            answered += event.WhichOneof("body") == "outcome"
            notes += [event.note.text] if event.WhichOneof("body") == "note" else []
            if event.call == training and event.WhichOneof("body") == "train" and rounds:
                rounds -= 1
                for command in asked:
                    engine.send(generate=command)
        made.append((tmp_path / name / "output" / "adapter_model.safetensors").read_bytes())
    assert answered == 4 * most
    assert notes[-1:] == [f"Generations are answered between {'layers' if trainer == 'fast' else 'micro-steps'}."]
    assert made[0] == made[1]


@pytest.mark.parametrize("broken", ["the first one's tokens", "another one's tokens", "the native step"])
def test_what_fails_in_a_step_of_several_fails_alone(llama: BaseModel, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    part, step, failing = (
        GenerationRequest.next_tokens,
        NativeModel.step,
        {"the first one's tokens": 2, "another one's tokens": 3}.get(broken),
    )

    def broken_part(answer: GenerationRequest, most: int) -> Part:
        if answer.call == failing:
            raise ValueError("broken")
        return part(answer, most)

    def broken_step(native: NativeModel, parts: Sequence[Part]) -> Any:
        if failing is None and len(parts) == 3:
            raise ValueError("broken")
        return step(native, parts)

    expected = finish(begin(llama, spec("The quick", max_tokens=5)))[1].token_ids
    monkeypatch.setattr(GenerationRequest, "next_tokens", broken_part)
    monkeypatch.setattr(NativeModel, "step", broken_step)
    ours, theirs = (contextlib.closing(Frames(end)) for end in socket.socketpair())
    with ours as daemon, theirs as engine:
        loop = EngineLoop(inbox := Inbox(engine), Session())
        loop._session.use(llama)
        for call in (2, 3, 4):
            inbox._queue.put(pb.Command(call=call, generate=generate("The quick", max_tokens=5)))
        loop._take(block=False)
        while loop._scheduler:
            loop._turn(loop._scheduler.next())
        ends = {}
        while len(ends) < 3:
            event = daemon.receive(pb.Event)
            if event is not None and event.WhichOneof("body") in ("outcome", "failure"):
                ends[event.call] = event
    (failed,) = (call for call, event in ends.items() if event.HasField("failure"))
    assert ends[failed].failure.reason == "INTERNAL"
    assert failing in (None, failed)
    assert all(tuple(event.outcome.token_ids) == expected for call, event in ends.items() if call != failed)


def test_a_tokenizer_that_panics_fails_its_call_alone(llama_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": "(?:a|a|aa)+$"}, "behavior": "Isolated", "invert": False}
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, described["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    with engine_process(OMP_NUM_THREADS="1") as engine:
        assert engine.load(folder, **FP32).WhichOneof("body") == "resident"
        failed = engine.call(generate=generate("a" * 99 + "c")).failure
        assert (failed.reason, "The model's tokenizer cannot read this" in failed.message) == ("UNSUPPORTED_MODEL", True)
        assert answer(engine, generate("The quick", max_tokens=2))[1].usage.completion_tokens == 2


def test_two_trainings_of_one_name_remember_nothing_of_each_other(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    ours, theirs = (contextlib.closing(Frames(end)) for end in socket.socketpair())
    with ours as daemon, theirs as engine:
        loop = EngineLoop(inbox := Inbox(engine), Session())
        loop._session.use(llama)

        def remembered(job: int) -> int:
            """What an answer of a training at its third step had not to compute."""
            adapter = AdapterRegistry(llama).attach("a", folders[job])
            loop._training = str(job)
            loop.offer(1, lambda: (3, adapter))
            folder = live("a", job_id=str(job))
            command = generate("The quick brown fox jumps over the lazy dog", folder, max_tokens=3)
            inbox._queue.put(pb.Command(call=2, generate=command))
            loop.yield_to_requests(1)
            while loop._scheduler:
                loop.yield_to_requests(1)
            while (event := daemon.receive(pb.Event)).WhichOneof("body") != "outcome":
                pass
            assert event.outcome.adapter == "a@step-3"
            return event.outcome.usage.remembered_tokens

        folders = [make_adapter(llama_folder, tmp_path / str(i), seed=i) for i in (1, 2)]
        assert remembered(0) == 0
        assert remembered(0) > 0
        assert remembered(1) == 0


def test_without_a_model_and_the_end_by_drain(endless_folder: Path) -> None:
    with engine_process(OMP_NUM_THREADS="1") as engine:
        for failed in (
            engine.call(generate=generate("A")),
            engine.call(count_tokens=generation_pb2.CountTokensRequest(prompt="A")),
            engine.call(attach=pb.AdapterFolder(key="a@1", path="/nowhere")),
            engine.call(train=pb.Train()),
        ):
            assert failed.failure.reason == "NO_MODEL"
        engine.load(endless_folder, **FP32)
        call = engine.send(generate=endless())
        assert engine.receive().text
        engine.drain()
        *_, last = engine.events(call)
        assert last.failure.reason == "SHUTTING_DOWN"
        assert engine.process.wait() == 0


def test_ctrl_c_is_the_daemon_s_to_answer(engine: EngineProcess) -> None:
    engine.process.send_signal(signal.SIGINT)
    assert engine.call(count_tokens=generation_pb2.CountTokensRequest(prompt="A")).counted.tokens == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process say so")
def test_it_goes_first_where_memory_runs_out(engine: EngineProcess) -> None:
    assert Path(f"/proc/{engine.process.pid}/oom_score_adj").read_text().strip() == "500"


def test_it_ends_when_the_daemon_is_gone() -> None:
    with engine_process(OMP_NUM_THREADS="1") as engine:
        engine.hang_up()
        assert engine.process.wait() == 1
