"""A training can be watched: samples, curves, its adapter at any step, and what it will take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from smolorad.domain import GenerateSpec, LoraSettings, Sampling, TrainerSettings
from smolorad.engine.adapters.registry import read_adapter
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.train import checkpoint, estimate
from smolorad.engine.train.throughput import Throughput
from smolorad.errors import InvalidRequest, OutOfMemory
from tests.tiny import tiny_model
from tests.unit.engine.train.train_kit import Job, RecordingHost, equal, read_base, write_columns, write_dataset

PROMPTS = ("the river", "bread and")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return read_base(tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "job", write_dataset(tmp_path / "set"))


def with_settings(job: Job, **changes: Any) -> Job:
    return dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, **changes))


def greedy(base: BaseModel, folder: Path, prompt: str, tokens: int) -> str:
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    asked = GenerateSpec(prompt=prompt, sampling=sampling)
    adapter, prefixes = read_adapter(base, folder), PrefixCache().of("")
    answer, text = GenerationRequest(0, base, asked, adapter=adapter, prefixes=prefixes, arrived=0.0), ""
    while answer.outcome is None:
        text += answer.step()
    return text


@pytest.mark.parametrize("trainer", ["fast", "plain"])
@pytest.mark.parametrize("init", ["true", "pissa"])
def test_samples_are_the_adapters_own_answers_and_change_nothing(
    job: Job, base: BaseModel, tmp_path: Path, trainer: str, init: str
) -> None:
    job = dataclasses.replace(with_settings(job, trainer=trainer), lora=LoraSettings(r=4, init_lora_weights=init))
    silent = dataclasses.replace(job, root=tmp_path / "silent")
    silent.run(base)
    host = RecordingHost()
    job = with_settings(job, sample_prompts=PROMPTS, sample_steps=4, sample_max_tokens=6)
    job.run(base, host)
    assert equal(job.adapter(), silent.adapter())
    samples = host.of("sample")
    assert [(sample.step, sample.prompt) for sample in samples] == [(step, prompt) for step in (4, 6) for prompt in PROMPTS]
    assert [sample.text for sample in samples[2:]] == [greedy(base, job.output, prompt, 6) for prompt in PROMPTS]


def test_a_prompt_that_cannot_be_answered_is_refused_before_the_first_step(job: Job, base: BaseModel) -> None:
    with pytest.raises(InvalidRequest, match="sample_prompts"):
        with_settings(job, sample_prompts=("river " * 2000,)).run(base, host := RecordingHost())
    assert not host.of("train")


def test_whoever_asks_between_two_steps_gets_the_adapter_of_the_last_one(job: Job, base: BaseModel) -> None:
    seen: dict[int, Any] = {}
    host = RecordingHost()

    def ask(count: int) -> None:
        if host.snapshot is not None:
            step, adapter = host.snapshot()
            ids = torch.tensor([[1, 2, 3, 4]])
            seen.setdefault(step, adapter.runner.model(input_ids=ids).logits.detach().clone())
            assert torch.equal(seen[step], adapter.runner.model(input_ids=ids).logits)

    host.on_yield = ask
    job.run(base, host)
    assert sorted(seen) == [*range(6), 6]  # the last while the held-out rows are measured
    last = read_adapter(base, job.output).runner.model(input_ids=torch.tensor([[1, 2, 3, 4]])).logits
    assert torch.equal(seen[6], last)
    saved = read_adapter(base, job.checkpoints / "4").runner.model(input_ids=torch.tensor([[1, 2, 3, 4]])).logits
    assert torch.equal(seen[4], saved)


class TestBoard:
    """TensorBoard files."""

    def test_curves(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        job = dataclasses.replace(with_settings(job, tensorboard=True, sample_prompts=PROMPTS[:1]), board=tmp_path / "board")
        host = RecordingHost()
        job.run(base, host)
        (path,) = (tmp_path / "board").iterdir()
        told = [(value.tag, event.step) for event in read_events(path) for value in event.summary.value]
        assert [step for tag, step in told if tag == "train/loss"] == [p.step for p in host.of("train")]
        assert [step for tag, step in told if tag == "eval/perplexity"] == [0, 6]
        assert [step for tag, step in told if tag.startswith("sample/")] == [6]

    def test_none_unless_asked_for(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        dataclasses.replace(job, board=tmp_path / "board").run(base)
        assert not (tmp_path / "board").exists()


def test_the_adapter_of_every_saved_step_is_kept(job: Job, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "ADAPTERS_KEPT", 3)
    written = {}

    class Host(RecordingHost):
        def emit(self, call: int, **body: Any) -> None:
            if "checkpoint" in body:
                step = str(body["checkpoint"].step)
                written[step] = (job.checkpoints / step / "adapter_model.safetensors").read_bytes()

    with_settings(job, save_steps=1).run(base, Host())
    kept = {path.name: (path / "adapter_model.safetensors").read_bytes() for path in (job.root / "steps").iterdir()}
    assert kept == {step: written[step] for step in ("2", "3", "4")}
    assert job.saved_steps() == [5, 6]
    assert read_adapter(base, job.root / "steps" / "2").parameters


def read_events(path: Path) -> list[Event]:
    """A TensorBoard file: records of length (8 bytes), checksum (4), data, checksum (4)."""
    data, place, events = path.read_bytes(), 0, []
    while place < len(data):
        size = int.from_bytes(data[place : place + 8], "little")
        events.append(Event.FromString(data[place + 12 : place + 12 + size]))
        place += 16 + size
    return events


class TestNeed:
    """Will it fit, and how long."""

    def test_is_told_before_the_first_step(self, job: Job, base: BaseModel) -> None:
        host = RecordingHost()
        job.run(base, host)
        kinds = [kind for kind, _ in host.events]
        assert kinds.index("estimate") < kinds.index("evaluation")
        told = host.of("estimate")[0]
        assert 0 < told.memory_bytes < told.available_bytes
        assert told.seconds > 0

    def test_more_to_compute_needs_more(self, base: BaseModel) -> None:
        def of(tokens: int, **more: Any) -> Any:
            work = estimate.Workload(longest=tokens, mean=tokens, rows=8, rows_at_once=8, fast=False)
            return estimate.estimate(base.model, 1000, work, 10, **({"checkpointing": False} | more))

        assert of(100).memory_bytes < of(1000).memory_bytes
        assert of(1000, checkpointing=True).memory_bytes < of(1000).memory_bytes

    @pytest.mark.parametrize("packing", [False, True])
    def test_the_longest_row_counts_wherever_it_stands(self, job: Job, base: BaseModel, tmp_path: Path, packing: bool) -> None:
        short, long = ["river"] * 150, ["river stone " * 40] * 50
        estimates = []
        for name, rows in (("short first", short + long), ("long first", long + short)):
            one = dataclasses.replace(
                with_settings(job, max_steps=1, packing=packing),
                root=tmp_path / name,
                dataset=write_columns(tmp_path / f"{name} rows", text=rows),
            )
            host = RecordingHost()
            one.run(base, host)
            estimates += host.of("estimate")
        assert estimates[0].memory_bytes == pytest.approx(estimates[1].memory_bytes, rel=0.01)
        shortest = dataclasses.replace(
            with_settings(job, max_steps=1), root=tmp_path / "s", dataset=write_columns(tmp_path / "s rows", text=short)
        )
        host = RecordingHost()
        shortest.run(base, host)
        assert host.of("estimate")[0].memory_bytes < estimates[0].memory_bytes

    def test_is_of_the_trainer_that_takes_the_run(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        told = {}
        for name in ("fast", "plain"):
            host = RecordingHost()
            one = with_settings(job, max_steps=1, neftune_noise_alpha=5.0, trainer=name)
            dataclasses.replace(one, root=tmp_path / name).run(base, host)
            (told[name],) = host.of("estimate")
        assert told["fast"].memory_bytes == told["plain"].memory_bytes

    def test_advises_what_can_be_lowered(self) -> None:
        one_by_one = TrainerSettings(per_device_train_batch_size=1, gradient_accumulation_steps=8)
        assert estimate.smaller(one_by_one, fast=False) == "trainer.max_length"
        assert estimate.smaller(one_by_one, fast=True) == "trainer.max_length or trainer.gradient_accumulation_steps"
        in_batches = TrainerSettings(per_device_train_batch_size=2, gradient_accumulation_steps=1)
        assert estimate.smaller(in_batches, fast=True) == "trainer.max_length or trainer.per_device_train_batch_size"

    def test_where_memory_is_short_layers_are_computed_again(
        self, job: Job, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = dataclasses.replace(job, root=tmp_path / "whole")
        whole.run(base)
        rows = {"text": ["river " * 150] * 4}
        short = dataclasses.replace(with_settings(job, max_steps=1), dataset=write_columns(tmp_path / "long", **rows))
        host = RecordingHost()
        short.run(base, host)
        monkeypatch.setattr(estimate, "available_bytes", lambda device: host.of("estimate")[0].memory_bytes - 1)
        again = dataclasses.replace(short, root=tmp_path / "again")
        told = RecordingHost()
        again.run(base, told)
        assert any("computed again" in note.text for note in told.of("note"))
        assert equal(again.adapter(), short.adapter())

    def test_what_cannot_fit_is_refused_with_advice(self, job: Job, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(estimate, "available_bytes", lambda device: 1_000_000)
        host = RecordingHost()
        with pytest.raises(OutOfMemory, match=r"needs about .* lower trainer\.max_length"):
            job.run(base, host)
        assert not host.of("train")
        assert host.of("estimate")


def test_pace() -> None:
    now = 0.0
    pace = Throughput(lambda: now)
    pace.start(0, 0)
    now = 20.0
    assert pace.report(1, 100, 99) == (5.0, 1980.0)
    pace.start(1, 100)
    now = 25.0
    with pace.aside():
        now = 1000.0
    pace.start(5, 999)  # it is under way already
    now = 1005.0
    rate, left = pace.report(11, 1100, 89, evaluations_left=2)
    assert (rate, left) == (100.0, pytest.approx(30 / 11 * 89))
    pace.evaluated(7.0)
    pace.start(11, 1100)
    now = 1015.0
    assert pace.report(21, 2100, 79, evaluations_left=2) == (100.0, pytest.approx(40 / 21 * 79 + 14))


@pytest.mark.parametrize("every", [1, 7])
def test_pace_counts_samples_and_checkpoints(every: int) -> None:
    now, told = 0.0, []
    pace = Throughput(lambda: now, samples=every, saves=every)
    for step in range(1, 101):
        pace.start(step - 1, step)
        now += 1.0
        due = step % every == 0 or step == 100
        if due:
            with pace.aside():
                now += 3.0
        told.append((now, pace.report(step, step, 100 - step)[1]))
        if due:
            with pace.aside("saves"):
                now += 2.0
    assert [left_s for _, left_s in told[20:-1]] == pytest.approx([now - then for then, _ in told[20:-1]])


def test_pace_is_told_of_samples_and_checkpoints(job: Job, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asides = []
    aside = Throughput.aside
    monkeypatch.setattr(Throughput, "aside", lambda self, what="samples": asides.append(what) or aside(self, what))
    with_settings(job, sample_prompts=PROMPTS, sample_steps=3).run(base)
    assert asides == ["saves", "samples", "saves", "samples", "saves"]
