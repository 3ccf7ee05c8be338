"""Training on completions, conversations and preference pairs, from another adapter's weights, and to an early end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from smolorad.domain import ChatMessage, LoraSettings, TrainerSettings
from smolorad.engine.adapters.registry import read_adapter
from smolorad.engine.model.base_model import BaseModel
from smolorad.errors import BadData, Cancelled, InvalidRequest, WrongBase
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, spec
from tests.unit.engine.train.test_tokenize import CHATML
from tests.unit.engine.train.train_kit import (
    Job,
    RecordingHost,
    cancel_at,
    equal,
    plain_sft,
    read_base,
    texts,
    weights_of,
    write_columns,
    write_dataset,
)

SETTINGS = TrainerSettings(
    max_steps=4,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    logging_steps=1,
    save_seconds=0,
    trainer="plain",
)
LORA = LoraSettings(r=4, lora_dropout=0.0)
THEIRS = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
PEERS = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "optim": "adamw_torch"}
COMPLETIONS = {"prompt": texts(8), "completion": [f" {text}" for text in texts(8, first=50)]}
PAIRS = COMPLETIONS | {"chosen": COMPLETIONS["completion"], "rejected": [f" {text}" for text in texts(8, first=80)]}
del PAIRS["completion"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def base(model: Path) -> BaseModel:
    return read_base(model)


def notes(host: RecordingHost) -> str:
    return " ".join(note.text for note in host.of("note"))


def test_completions_as_trl_trains_them(base: BaseModel, model: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", write_columns(tmp_path / "set", **COMPLETIONS), LORA, SETTINGS)
    host = RecordingHost()
    trained = job.run(base, host)
    assert equal(job.adapter(), plain_sft(model, Dataset.from_dict(COMPLETIONS), tmp_path / "plain", THEIRS, **PEERS))
    assert "Learns the completions:" in notes(host)
    assert 0.2 < trained.scored_share < 0.8
    last = host.of("train")[-1]
    assert trained.scored_share == pytest.approx(last.scored_tokens / last.tokens)


@pytest.mark.parametrize("shape", ["completions", "conversations"])
def test_both_trainers_learn_the_same(base: BaseModel, tmp_path: Path, shape: str) -> None:
    columns: dict[str, list[Any]] = dict(COMPLETIONS)
    if shape == "conversations":
        base.tokenizer.chat_template = CHATML
        columns = {"messages": [_talk(*row) for row in zip(*COMPLETIONS.values(), strict=True)]}
    data = write_columns(tmp_path / "set", held_out_rows=2, **columns)
    hosts = {}
    for trainer in ("fast", "plain"):
        job = Job(tmp_path / trainer, data, LORA, dataclasses.replace(SETTINGS, trainer=trainer))
        job.run(base, hosts.setdefault(trainer, RecordingHost()))
    for kind in ("train", "evaluation"):
        for left, right in zip(*(host.of(kind) for host in hosts.values()), strict=True):
            assert left.loss == pytest.approx(right.loss, rel=1e-4)
    assert [p.scored_tokens for p in hosts["fast"].of("train")] == [p.scored_tokens for p in hosts["plain"].of("train")]


def test_layers_of_several_widths(tmp_path: Path) -> None:
    base = fp32_base(tiny_model(tmp_path / "model", "gemma3n_text"))
    settings = dataclasses.replace(SETTINGS, max_steps=1, trainer="fast")
    job, host = Job(tmp_path / "job", write_columns(tmp_path / "set", **COMPLETIONS), LORA, settings), RecordingHost()
    job.run(base, host)
    assert host.of("estimate")[0].memory_bytes > 0
    assert host.of("train")[-1].loss > 0


def _talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_a_run_in_which_nothing_is_learned_is_refused(base: BaseModel, tmp_path: Path) -> None:
    long = {"prompt": [" ".join(texts(40))] * 2, "completion": ["bread", "salt"]}
    settings = dataclasses.replace(SETTINGS, max_length=16)
    job = Job(tmp_path / "job", write_columns(tmp_path / "long", **long), LORA, settings)
    with pytest.raises(BadData, match=r"Nothing of .* would be learned: no row has completions within"):
        job.run(base)
    both = {name: [*long[name], *COMPLETIONS[name]] for name in long}
    host = RecordingHost()
    settings = dataclasses.replace(SETTINGS, max_length=200)
    dataclasses.replace(job, dataset=write_columns(tmp_path / "both", **both), trainer=settings).run(base, host)
    assert "2 rows are left out" in notes(host)
    base.tokenizer.chat_template = CHATML
    questions = write_columns(tmp_path / "questions", messages=[_talk("why", "so")[:1]] * 3)
    with pytest.raises(BadData, match="no row has assistant's turns"):
        Job(tmp_path / "questions-job", questions, LORA, SETTINGS).run(base)


@pytest.mark.parametrize(("max_length", "cut"), [(64, "4 rows are"), (500, "")])
@pytest.mark.parametrize("chat", [False, True])
def test_how_many_rows_are_cut_is_said(base: BaseModel, tmp_path: Path, chat: bool, max_length: int, cut: str) -> None:
    base.tokenizer.chat_template = CHATML
    long, short = " ".join(texts(5)), "sun"
    rows = [long] * 4 + [short] * 3
    columns: dict[str, Any] = {"messages": [_talk("why", row) for row in rows]} if chat else {"text": rows}
    host = RecordingHost()
    settings = dataclasses.replace(SETTINGS, max_length=max_length, max_steps=1)
    Job(tmp_path / "job", write_columns(tmp_path / "set", **columns), LORA, settings).run(base, host)
    assert (f"longer than {max_length} tokens, and cut there" in notes(host)) == bool(cut)
    assert cut in notes(host)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"warmup_steps": 100, "max_steps": 3},
            "The learning rate of 0.01 is never reached, but 0.0002: the 100 warm-up steps",
        ),
        ({"warmup_steps": 3, "max_steps": 3}, "is never reached, but 0.0067"),
        ({"warmup_steps": 2, "max_steps": 3}, ""),
        ({"warmup_steps": 0.5, "max_steps": 3}, ""),
        ({"warmup_steps": 100, "max_steps": 3, "lr_scheduler_type": "constant"}, ""),
        ({"warmup_steps": 100, "num_train_epochs": 1.0}, "is never reached"),
    ],
)
def test_a_warm_up_that_does_not_end_is_said(base: BaseModel, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    host = RecordingHost()
    settings = dataclasses.replace(SETTINGS, learning_rate=0.01, logging_steps=1, **changes)
    Job(tmp_path / "job", write_columns(tmp_path / "set", text=texts(8)), LORA, settings).run(base, host)
    assert ("is never reached" in notes(host)) == bool(said)
    assert said in notes(host)
    reached = max(step.learning_rate for step in host.of("train"))
    assert (reached < 0.01 * 0.99) == bool(said)


class TestPreferences:
    """TRL's DPOTrainer on the resident base."""

    @pytest.fixture
    def job(self, tmp_path: Path) -> Job:
        settings = dataclasses.replace(SETTINGS, beta=0.3, save_steps=2)
        return Job(tmp_path / "job", write_columns(tmp_path / "set", held_out_rows=2, **PAIRS), LORA, settings)

    def test_as_trl_trains_them(self, job: Job, base: BaseModel, model: Path, tmp_path: Path) -> None:
        before = weights_of(base)
        host = RecordingHost()
        trained = job.run(base, host)
        assert weights_of(base) == before
        args = DPOConfig(
            output_dir=str(tmp_path / "plain"),
            beta=0.3,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            dataloader_pin_memory=False,
            disable_tqdm=True,
            gradient_checkpointing=False,
            **PEERS,
        )
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=args,
            train_dataset=Dataset.from_dict(PAIRS).select(range(6)),
            processing_class=AutoTokenizer.from_pretrained(model),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **THEIRS),
        )
        trainer.train()
        trainer.model.save_pretrained(tmp_path / "adapter")
        assert equal(job.adapter(), load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
        assert host.of("train")[0].loss == pytest.approx(0.6931, abs=1e-3)  # at first the adapter is its own reference
        assert 0 <= host.of("train")[-1].reward_accuracy <= 1
        assert [e.step for e in host.of("evaluation")] == [0, 4]
        assert trained.eval_loss_before == pytest.approx(0.6931, abs=1e-3)

    def test_conversations_are_sampled_as_such(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        base.tokenizer.chat_template = CHATML
        talks = [[_talk(*pair) for pair in zip(PAIRS["prompt"], PAIRS[name], strict=True)] for name in ("chosen", "rejected")]
        columns = {"prompt": [talk[:1] for talk in talks[0]]}
        columns |= {name: [talk[1:] for talk in one] for name, one in zip(("chosen", "rejected"), talks, strict=True)}
        settings = dataclasses.replace(job.trainer, sample_prompts=("why",), sample_max_tokens=6)
        job = dataclasses.replace(job, trainer=settings, dataset=write_columns(tmp_path / "talks", **columns))
        host = RecordingHost()
        job.run(base, host)
        asked = spec(messages=(ChatMessage("user", "why"),), max_tokens=6)
        assert host.of("sample")[-1].text == finish(begin(base, asked, read_adapter(base, job.output)))[0]

    def test_goes_on_from_a_checkpoint(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        whole = dataclasses.replace(job, root=tmp_path / "whole")
        whole.run(base)
        with pytest.raises(Cancelled):
            job.run(base, RecordingHost(cancel_at(1 + 1 + 1 + 4)))  # two readings, an evaluation; in step 4
        job.run(base)
        assert equal(job.adapter(), whole.adapter())

    def test_refuses_what_does_not_go_with_pairs(self, job: Job, base: BaseModel) -> None:
        for lora, settings, field in (
            (dataclasses.replace(LORA, init_lora_weights="pissa"), job.trainer, "lora.init_lora_weights"),
            (LORA, dataclasses.replace(job.trainer, packing=True), "trainer.packing"),
        ):
            with pytest.raises(InvalidRequest) as caught:
                dataclasses.replace(job, lora=lora, trainer=settings).run(base)
            assert [violation.field for violation in caught.value.violations] == [field]


class TestFromAnotherAdapter:
    """Goes on from an adapter's weights, in its shape."""

    @pytest.fixture
    def first(self, base: BaseModel, tmp_path: Path) -> Job:
        lora = LoraSettings(r=3, lora_alpha=6, lora_dropout=0.0, target_modules=("all-linear",), modules_to_save=("norm",))
        job = Job(tmp_path / "first", write_dataset(tmp_path / "set"), lora, SETTINGS)
        job.run(base)
        return job

    @pytest.mark.parametrize("trainer", ["fast", "plain"])
    def test_its_weights_are_the_start(self, first: Job, base: BaseModel, tmp_path: Path, trainer: str) -> None:
        still = dataclasses.replace(SETTINGS, max_steps=1, learning_rate=1e-12, trainer=trainer)
        host = RecordingHost()
        second = dataclasses.replace(first, root=tmp_path / "second", trainer=still, parent=first.output)
        second.run(base, host)
        assert "plain trainer takes" not in notes(host)
        mine, theirs = second.adapter(), first.adapter()
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.allclose(tensor, theirs[name], atol=1e-9), name
        before = host.of("evaluation")[0].loss
        whole = RecordingHost()
        dataclasses.replace(first, root=tmp_path / "again").run(base, whole)
        assert before == pytest.approx(whole.of("evaluation")[-1].loss, rel=1e-5)

    def test_resumes(self, first: Job, base: BaseModel, tmp_path: Path) -> None:
        settings = dataclasses.replace(SETTINGS, save_steps=2)
        whole = dataclasses.replace(first, root=tmp_path / "whole", parent=first.output, trainer=settings)
        whole.run(base)
        cut = dataclasses.replace(whole, root=tmp_path / "cut")
        with pytest.raises(Cancelled):
            cut.run(base, RecordingHost(cancel_at(1 + 4)))
        cut.run(base)
        assert equal(cut.adapter(), whole.adapter())

    def test_pairs_after_texts(self, first: Job, base: BaseModel, tmp_path: Path) -> None:
        pairs = write_columns(tmp_path / "pairs", **PAIRS)
        job = dataclasses.replace(first, root=tmp_path / "pairs-job", dataset=pairs, parent=first.output)
        host = RecordingHost()
        job.run(base, host)
        assert host.of("train")[0].loss == pytest.approx(0.6931, abs=1e-3)  # the reference is the parent, not the base
        assert job.adapter().keys() == first.adapter().keys()

    def test_of_another_base(self, first: Job, tmp_path: Path) -> None:
        other = read_base(tiny_model(tmp_path / "other", hidden_size=32))
        with pytest.raises(WrongBase):
            dataclasses.replace(first, root=tmp_path / "second", parent=first.output).run(other)


class TestEarlyStopping:
    """Ends where the held-out loss falls no more."""

    @pytest.fixture
    def job(self, tmp_path: Path) -> Job:
        settings = dataclasses.replace(
            SETTINGS, max_steps=40, learning_rate=0.3, eval_steps=1, save_steps=1, early_stopping_patience=2
        )
        return Job(tmp_path / "job", write_dataset(tmp_path / "set"), LORA, settings)

    def test_publishes_the_best(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        host = RecordingHost()
        trained = job.run(base, host)
        losses = {e.step: e.loss for e in host.of("evaluation") if e.step}
        best = min(losses, key=lambda step: losses[step])
        assert max(losses) == best + 2 < 40
        assert (trained.steps, trained.eval_loss_after) == (best, losses[best])
        assert f"The adapter is the one of step {best}" in notes(host)
        settings = dataclasses.replace(job.trainer, early_stopping_patience=0, save_steps=best)
        whole = dataclasses.replace(job, root=tmp_path / "whole", trainer=settings)
        reached = whole.checkpoints / str(best)

        def stop_there(count: int) -> None:
            if reached.exists():
                cancel_at(count)(count)

        with pytest.raises(Cancelled):
            whole.run(base, RecordingHost(stop_there))
        assert equal(job.adapter(), load_file(reached / "adapter_model.safetensors"))

    def test_resumes_into_the_same_end(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        whole = dataclasses.replace(job, root=tmp_path / "whole")
        expected = whole.run(base)
        with pytest.raises(Cancelled):
            job.run(base, RecordingHost(cancel_at(6)))
        assert job.run(base) == expected
        assert equal(job.adapter(), whole.adapter())
        assert job.run(base) == expected  # its end is in the checkpoint; no step more

    def test_needs_something_held_out(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        data = write_dataset(tmp_path / "none", held_out_rows=0)
        with pytest.raises(InvalidRequest, match="early_stopping_patience"):
            dataclasses.replace(job, dataset=data).run(base)
