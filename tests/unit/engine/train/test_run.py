"""A training gives what plain TRL gives, whatever happens meanwhile, and leaves the base alone."""

from __future__ import annotations

import dataclasses
import json
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.adapters.registry import read_adapter
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.train.trl_trainers import LoraTrainer
from smolorad.errors import (
    BadData,
    Cancelled,
    Damaged,
    InvalidRequest,
    NoSpace,
    NotFinite,
    OutOfMemory,
    ShuttingDown,
    UnsupportedModel,
)
from tests.tiny import tiny_model
from tests.unit.engine.train.train_kit import (
    Job,
    RecordingHost,
    cancel_at,
    equal,
    last_parts,
    plain_sft,
    read_base,
    texts,
    weights_of,
    write_dataset,
)

SHORT = TrainerSettings(max_steps=3, gradient_accumulation_steps=2, learning_rate=1e-2, logging_steps=1, trainer="plain")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def base(model: Path) -> BaseModel:
    return read_base(model)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def job(tmp_path: Path, dataset: Path) -> Job:
    return Job(tmp_path / "job", dataset)


def held_out_loss(model: Any, tokenizer: Any, rows: int = 5) -> float:
    """Mean loss per scored token, a row at a time."""
    nats, scored = 0.0, 0
    for text in texts(rows, first=1000):
        ids = tokenizer(text + tokenizer.eos_token, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            nats += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        scored += ids.shape[1] - 1
    return nats / scored


class TestPlainTrl:
    """The same adapter, bit for bit, as a plain SFTTrainer script with the same settings and seed."""

    def test_with_evaluations_checkpoints_and_yields_in_between(
        self, job: Job, base: BaseModel, model: Path, tmp_path: Path
    ) -> None:
        job.run(base)
        lora = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
        settings = {
            "max_steps": 6,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "linear",
            "optim": "adamw_torch",
            "max_length": 512,
            "seed": 42,
        }
        assert equal(job.adapter(), plain_sft(model, texts(10), tmp_path / "plain", lora, **settings))

    def test_with_everything_else_set(self, job: Job, base: BaseModel, model: Path, tmp_path: Path) -> None:
        trainer = TrainerSettings(
            num_train_epochs=1.5,
            per_device_train_batch_size=3,
            gradient_accumulation_steps=1,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=2,
            optim="adafactor",
            weight_decay=0.1,
            max_grad_norm=0.5,
            max_length=16,
            gradient_checkpointing=True,
            neftune_noise_alpha=5.0,
            seed=7,
            trainer="plain",
        )
        lora = LoraSettings(r=3, lora_alpha=9, target_modules=("all-linear",), use_rslora=True, lora_dropout=0.2)
        trained = dataclasses.replace(job, lora=lora, trainer=trainer)
        trained.run(base)
        settings = {
            "num_train_epochs": 1.5,
            "per_device_train_batch_size": 3,
            "learning_rate": 3e-3,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "optim": "adafactor",
            "weight_decay": 0.1,
            "max_grad_norm": 0.5,
            "max_length": 16,
            "neftune_noise_alpha": 5.0,
            "seed": 7,
        }
        peft = {"r": 3, "lora_alpha": 9, "target_modules": "all-linear", "use_rslora": True, "lora_dropout": 0.2}
        plain = plain_sft(model, texts(10), tmp_path / "plain", peft, **settings, gradient_checkpointing=True)
        assert equal(trained.adapter(), plain)

    def test_packed(self, job: Job, base: BaseModel, model: Path, tmp_path: Path) -> None:
        trained = dataclasses.replace(job, trainer=dataclasses.replace(SHORT, packing=True, max_length=32))
        trained.run(base)
        lora = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
        settings = {"max_steps": 3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "learning_rate": 1e-2}
        plain = plain_sft(
            model, texts(10), tmp_path / "plain", lora, **settings, optim="adamw_torch", packing=True, max_length=32
        )
        assert equal(trained.adapter(), plain)

    @pytest.mark.long  # the trainer is the same; e2e/test_main_job.py trains on the starter model
    @pytest.mark.model
    def test_on_the_starter_model(self, starter_model: Path, tmp_path: Path) -> None:
        # The second step is the first one in which both of a LoRA's matrices have gradients.
        trainer = dataclasses.replace(SHORT, learning_rate=2e-4, max_steps=2, gradient_accumulation_steps=1)
        job = Job(tmp_path / "job", write_dataset(tmp_path / "set", held_out_rows=1), LoraSettings(), trainer)
        job.run(read_base(starter_model))
        lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
        settings = {
            "max_steps": 2,
            "per_device_train_batch_size": 1,
            "learning_rate": 2e-4,
            "optim": "adamw_torch",
        }
        assert equal(job.adapter(), plain_sft(starter_model, texts(10), tmp_path / "plain", lora, **settings))


def test_generation_between_micro_steps_changes_nothing(job: Job, base: BaseModel, tmp_path: Path) -> None:
    job.run(base)

    def answer(count: int) -> None:
        ids = torch.tensor([[1, 2, 3, count]])
        base.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=3, pad_token_id=0)
        torch.randn(3)

    host = RecordingHost(answer)
    disturbed = dataclasses.replace(job, root=tmp_path / "disturbed")
    disturbed.run(base, host)
    assert host.yields == 6 * 2 + 2 * 1  # micro-steps, and one batch of each evaluation
    assert equal(job.adapter(), disturbed.adapter())


@pytest.mark.long  # fast/test_trainer.py looks at a base that several jobs of both trainers share
def test_twenty_jobs_leave_the_base_as_it_was(job: Job, base: BaseModel, tmp_path: Path) -> None:
    before = weights_of(base)
    shapes = [
        LoraSettings(),
        LoraSettings(target_modules=("all-linear",)),
        LoraSettings(use_rslora=True),
        LoraSettings(use_dora=True),
        LoraSettings(bias="all"),
        LoraSettings(modules_to_save=("norm",)),
        LoraSettings(layers_to_transform=(1,)),
        LoraSettings(lora_dropout=0.0),
        LoraSettings(init_lora_weights="pissa"),
        LoraSettings(init_lora_weights="olora"),
    ]
    for number, lora in enumerate(shapes):
        for trainer in ("fast", "plain"):
            settings = dataclasses.replace(SHORT, max_steps=1, trainer=trainer)
            dataclasses.replace(job, root=tmp_path / f"{trainer}{number}", lora=lora, trainer=settings).run(base)
            assert weights_of(base) == before, (trainer, lora)


class TestEvents:
    """What is told on the way."""

    def test_a_checkpoint_when_it_is_time(self, job: Job, base: BaseModel) -> None:
        settings = dataclasses.replace(SHORT, save_steps=1000, save_seconds=1e-9)
        host = RecordingHost()
        dataclasses.replace(job, trainer=settings).run(base, host)
        assert [checkpoint.step for checkpoint in host.of("checkpoint")] == [1, 2, 3]

    def test_of_a_whole_run(self, job: Job, base: BaseModel) -> None:
        host = RecordingHost()
        trained = job.run(base, host)
        progress = host.of("train")
        assert [(p.step, p.max_steps) for p in progress] == [(1, 6), (2, 6), (4, 6), (6, 6)]
        assert all(p.tokens_per_second > 0 and p.grad_norm > 0 for p in progress)
        assert [p.eta_s > 0 for p in progress] == [True, True, True, False]
        assert progress[0].learning_rate == 1e-2
        assert [round(p.epoch, 6) for p in progress] == [0.2, 0.4, 0.8, 1.2]
        sizes = [len(base.tokenizer(text + base.tokenizer.eos_token)["input_ids"]) for text in texts(10)]
        assert sum(sizes) < progress[-1].tokens < 2 * sum(sizes)
        assert [e.step for e in host.of("evaluation")] == [0, 6]
        assert [c.step for c in host.of("checkpoint")] == [2, 4, 6]
        assert trained.steps == 6
        means = progress[0].loss + progress[1].loss + 2 * progress[2].loss + 2 * progress[3].loss
        assert trained.train_loss == pytest.approx(means / 6)

    def test_held_out_loss_is_per_scored_token_however_batches_are_cut(self, job: Job, base: BaseModel) -> None:
        expected = held_out_loss(base.model, base.tokenizer, rows=4)
        for size in (1, 3, 8):
            settings = dataclasses.replace(SHORT, per_device_eval_batch_size=size, eval_rows=4)
            host = RecordingHost()
            dataclasses.replace(job, trainer=settings).run(base, host)
            before = host.of("evaluation")[0]
            assert before.loss == pytest.approx(expected, rel=1e-5)
            assert before.perplexity == pytest.approx(math.exp(before.loss))
            assert before.rows == 4
            for folder in job.checkpoints.iterdir():
                (folder / "manifest.json").unlink()  # start anew with the next size

    def test_evaluations_in_between_do_not_change_the_adapter(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        job.run(base)
        settings = dataclasses.replace(job.trainer, eval_steps=2)
        measured = dataclasses.replace(job, root=tmp_path / "measured", trainer=settings)
        host = RecordingHost()
        trained = measured.run(base, host)
        assert [e.step for e in host.of("evaluation")] == [0, 2, 4, 6]
        assert trained.eval_loss_after == host.of("evaluation")[-1].loss
        assert equal(job.adapter(), measured.adapter())

    def test_nothing_held_out(self, base: BaseModel, tmp_path: Path) -> None:
        job = Job(tmp_path / "job", write_dataset(tmp_path / "set", held_out_rows=0), trainer=SHORT)
        host = RecordingHost()
        trained = job.run(base, host)
        assert host.of("evaluation") == []
        assert not trained.HasField("eval_loss_before")
        assert not trained.HasField("eval_loss_after")

    def test_rows_longer_than_the_context_are_cut_and_said_so(self, job: Job, base: BaseModel) -> None:
        host = RecordingHost()
        dataclasses.replace(job, trainer=SHORT).run(dataclasses.replace(base, context_length=16), host)
        assert [note.text for note in host.of("note")] == [
            "Rows are cut to 16 tokens, which is all that tiny can see.",
            "8 rows are longer than 16 tokens, and cut there.",
        ]


class TestOutput:
    """The finished folder."""

    def test_is_one_that_peft_loads(self, job: Job, base: BaseModel, model: Path) -> None:
        job.run(base)
        plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        loaded = PeftModel.from_pretrained(plain, job.output).state_dict()
        for name, tensor in job.adapter().items():
            stem, _, last = name.rpartition(".")
            assert torch.equal(loaded[f"{stem}.default.{last}"], tensor)
        assert AutoTokenizer.from_pretrained(job.output)("sun")["input_ids"] == base.tokenizer("sun")["input_ids"]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("org/model-1.5", "org/model-1.5"),
            ("starter", "HuggingFaceTB/SmolLM2-135M-Instruct"),
            ("merged.model", "merged.model"),
            ("/home/ann/models/tiny", "tiny"),
            ("/home/ann/models--org--tiny/snapshots/0123abc", "org/tiny"),
        ],
    )
    def test_names_its_base_as_others_can_find_it(self, job: Job, base: BaseModel, name: str, expected: str) -> None:
        dataclasses.replace(job, trainer=SHORT).run(dataclasses.replace(base, name=name))
        configs = sorted(job.root.rglob("adapter_config.json"))
        assert len(configs) > 1  # those of checkpoints, too
        for path in configs:
            config = json.loads(path.read_text())
            assert config["base_model_name_or_path"] == expected
            assert config["revision"] == ("0123abc" if "snapshots" in name else None)

    def test_replaces_what_an_earlier_attempt_left(self, job: Job, base: BaseModel) -> None:
        job.output.mkdir(parents=True)
        (job.output / "half").write_text("x")
        dataclasses.replace(job, trainer=SHORT).run(base)
        assert not (job.output / "half").exists()


class TestStopping:
    """Ends before the last step."""

    @pytest.mark.parametrize("number", [1, 2, 6])
    def test_cancelled_at_the_next_yield(self, job: Job, base: BaseModel, number: int) -> None:
        host = RecordingHost(cancel_at(number))
        with pytest.raises(Cancelled):
            job.run(base, host)
        assert host.yields == number
        assert not job.output.exists()

    def test_drained_after_its_step_with_a_checkpoint_and_then_goes_on(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        job = dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, save_steps=100))
        whole = dataclasses.replace(job, root=tmp_path / "whole")
        expected = whole.run(base)

        def drain(count: int) -> None:
            host.is_draining = count >= 4  # yield 1 is the evaluation, 2 and 3 are step 1, 4 begins step 2

        host = RecordingHost(drain)
        with pytest.raises(ShuttingDown):
            job.run(base, host)
        assert job.saved_steps() == [2]
        assert not job.output.exists()
        assert job.run(base) == expected
        assert equal(job.adapter(), whole.adapter())

    def test_drained_before_the_first_step(self, job: Job, base: BaseModel) -> None:
        with pytest.raises(ShuttingDown):
            job.run(base, RecordingHost(is_draining=True))
        assert not job.checkpoints.exists()

    def test_drained_in_the_last_evaluation_measures_it_when_it_is_back(
        self, job: Job, base: BaseModel, tmp_path: Path
    ) -> None:
        job = dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, per_device_eval_batch_size=1))
        whole = dataclasses.replace(job, root=tmp_path / "whole")
        expected = whole.run(base)

        def drain(count: int) -> None:
            host.is_draining = count >= 5 + 6 * 2 + 1  # the first of the five batches after the last step

        host, again = RecordingHost(drain), RecordingHost()
        with pytest.raises(ShuttingDown):
            job.run(base, host)
        assert job.saved_steps()[-1] == 6
        assert job.run(base, again) == expected
        assert [e.step for e in again.of("evaluation")] == [6]
        assert equal(job.adapter(), whole.adapter())

    def test_a_loss_that_is_not_finite(self, job: Job, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        real = LoraTrainer.compute_loss
        steps = 0

        def compute_loss(self: LoraTrainer, *args: Any, **more: Any) -> Any:
            nonlocal steps
            steps += self.model.training
            return real(self, *args, **more) * (math.nan if steps == 5 else 1.0)

        monkeypatch.setattr(LoraTrainer, "compute_loss", compute_loss)
        with pytest.raises(NotFinite, match=r"The loss of step 3 is nan; .* lower trainer\.learning_rate"):
            job.run(base)
        assert not job.output.exists()
        assert job.saved_steps() == [2]

    @pytest.mark.parametrize(("step", "said"), [(1, "before anything was trained"), (2, "The gradient of step 2")])
    def test_a_gradient_that_is_not_finite(
        self, job: Job, base: BaseModel, monkeypatch: pytest.MonkeyPatch, step: int, said: str
    ) -> None:
        real = LoraTrainer.training_step

        def training_step(self: LoraTrainer, *args: Any, **more: Any) -> Any:
            loss = real(self, *args, **more)
            for parameter in self.model.parameters():
                if parameter.grad is not None and self.state.global_step >= step - 1:
                    parameter.grad.fill_(math.inf)
            return loss

        monkeypatch.setattr(LoraTrainer, "training_step", training_step)
        with pytest.raises(NotFinite, match=said):
            job.run(base)
        assert not job.output.exists()
        assert not job.checkpoints.exists()

    def test_memory_and_disk_in_our_words(self, job: Job, base: BaseModel) -> None:
        def refuse(error: Exception) -> RecordingHost:
            def on_yield(count: int) -> None:
                raise error

            return RecordingHost(on_yield)

        in_pairs = dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, per_device_train_batch_size=2))
        with pytest.raises(OutOfMemory, match="per_device_train_batch_size"):
            in_pairs.run(base, refuse(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")))
        with pytest.raises(NoSpace):
            job.run(base, refuse(OSError(28, "No space left on device")))
        with pytest.raises(RuntimeError, match="something else"):
            job.run(base, refuse(RuntimeError("something else")))


class TestRefused:
    """Bad input, before anything is computed."""

    def test_nothing_to_learn(self, base: BaseModel, tmp_path: Path) -> None:
        from datasets import Dataset, DatasetDict

        DatasetDict({"train": Dataset.from_dict({"text": ["", ""]})}).save_to_disk(str(tmp_path / "set"))
        with pytest.raises(BadData, match="has a token to learn"):
            Job(tmp_path / "job", tmp_path / "set").run(base)

    def test_no_text(self, base: BaseModel, tmp_path: Path) -> None:
        from datasets import Dataset, DatasetDict

        DatasetDict({"train": Dataset.from_dict({"story": ["a"]})}).save_to_disk(str(tmp_path / "set"))
        with pytest.raises(BadData, match="Nothing can be learned of a dataset with the columns story"):
            Job(tmp_path / "job", tmp_path / "set").run(base)

    def test_no_dataset(self, base: BaseModel, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        with pytest.raises(Damaged, match="prepare it again"):
            Job(tmp_path / "job", tmp_path / "set").run(base)

    def test_settings_out_of_bounds(self, job: Job, base: BaseModel) -> None:
        with pytest.raises(InvalidRequest, match=r"trainer\.learning_rate: is 11\.0"):
            dataclasses.replace(job, trainer=TrainerSettings(learning_rate=11.0)).run(base)
        with pytest.raises(InvalidRequest, match=r"lora\.r: is 2000"):
            dataclasses.replace(job, lora=LoraSettings(r=2000)).run(base)

    def test_a_tokenizer_without_an_end(self, job: Job, base: BaseModel) -> None:
        base.tokenizer.eos_token = None
        with pytest.raises(UnsupportedModel, match="no end-of-text token"):
            job.run(base)


class TestBase:
    """The base is left as it was."""

    @pytest.mark.parametrize(
        "lora",
        [
            LoraSettings(),
            LoraSettings(use_dora=True),
            pytest.param(LoraSettings(use_rslora=True), marks=pytest.mark.long),
            LoraSettings(bias="all"),
            pytest.param(LoraSettings(bias="lora_only"), marks=pytest.mark.long),
            LoraSettings(modules_to_save=("lm_head", "norm")),
            pytest.param(LoraSettings(modules_to_save=("embed_tokens",)), marks=pytest.mark.long),
            pytest.param(LoraSettings(init_lora_weights="gaussian"), marks=pytest.mark.long),
            LoraSettings(init_lora_weights="pissa"),
            pytest.param(LoraSettings(init_lora_weights="pissa_niter_4"), marks=pytest.mark.long),
            LoraSettings(init_lora_weights="olora"),
            LoraSettings(target_modules=("embed_tokens", "q_proj")),
            LoraSettings(layers_to_transform=(1,), rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 4}),
        ],
        ids=lambda lora: repr(lora).removeprefix("LoraSettings"),
    )
    @pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:.*tied.*:UserWarning")
    def test_whatever_the_adapter_is(self, dataset: Path, tmp_path: Path, lora: LoraSettings) -> None:
        model = tiny_model(tmp_path / "model", "qwen2")  # has biases
        base = read_base(model)
        flags = {name: p.requires_grad for name, p in base.model.named_parameters()}
        before = weights_of(base)
        job = Job(tmp_path / "job", dataset, lora, SHORT)
        trained = job.run(base)
        # The folder alone is what was trained, for PEFT on an untouched base and for the engine: the held-out loss says so.
        plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        for loaded in (PeftModel.from_pretrained(plain, job.output).eval(), read_adapter(base, job.output).runner.model):
            assert trained.eval_loss_after == pytest.approx(held_out_loss(loaded, base.tokenizer), rel=2e-5)
        assert trained.eval_loss_after != pytest.approx(trained.eval_loss_before, rel=1e-4)
        assert weights_of(base) == before
        assert {name: p.requires_grad for name, p in base.model.named_parameters()} == flags

    @pytest.mark.parametrize("ending", ["done", "cancelled", "failed"])
    def test_however_it_ends(self, job: Job, base: BaseModel, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
        base.model.lm_head.weight.requires_grad_(True)
        flags = {name: p.requires_grad for name, p in base.model.named_parameters()}
        config = base.model.config.to_dict()
        before = weights_of(base)
        taken: list[weakref.ref[Any]] = []
        real = LoraTrainer.training_step

        def training_step(self: LoraTrainer, *args: Any, **more: Any) -> Any:
            taken.extend(map(weakref.ref, (self, self.model, self.optimizer)))
            return real(self, *args, **more)

        def on_yield(count: int) -> None:
            if count == 4 and ending == "cancelled":
                raise Cancelled("The training was cancelled.")
            if count == 4 and ending == "failed":
                raise RuntimeError("out of memory")

        monkeypatch.setattr(LoraTrainer, "training_step", training_step)
        settings = dataclasses.replace(job.trainer, gradient_checkpointing=True, neftune_noise_alpha=1.0)
        host = RecordingHost(on_yield)
        failure: BaseException | None = None
        try:
            dataclasses.replace(job, trainer=settings).run(base, host)
        except (Cancelled, OutOfMemory) as error:
            failure = error  # kept, as a loop that reports it would
        assert (failure is None) == (ending == "done")
        assert taken
        assert all(one() is None for one in taken)
        assert weights_of(base) == before
        assert {name: p.requires_grad for name, p in base.model.named_parameters()} == flags
        assert all(p.grad is None for p in base.model.parameters())
        assert not any(module.training for module in base.model.modules())
        assert not any(getattr(module, "gradient_checkpointing", False) for module in base.model.modules())
        assert not any(module._forward_hooks for module in base.model.modules())
        assert base.model.config.to_dict() == config

    def test_a_cancelled_run_does_not_disturb_the_next(self, job: Job, base: BaseModel, tmp_path: Path) -> None:
        job.run(base)
        with pytest.raises(Cancelled):
            dataclasses.replace(job, root=tmp_path / "cancelled").run(base, RecordingHost(cancel_at(5)))
        after = dataclasses.replace(job, root=tmp_path / "after")
        after.run(base)
        assert equal(job.adapter(), after.adapter())

    def test_in_bf16_the_adapter_is_fp32_and_the_losses_are_close(self, job: Job, model: Path, tmp_path: Path) -> None:
        exact, rounded = RecordingHost(), RecordingHost()
        job.run(read_base(model), exact)
        half = dataclasses.replace(job, root=tmp_path / "half")
        half.run(read_base(model, torch.bfloat16), rounded)
        assert {tensor.dtype for tensor in half.adapter().values()} == {torch.float32}
        for left, right in zip(exact.of("train"), rounded.of("train"), strict=True):
            assert right.loss == pytest.approx(left.loss, rel=0.02)

    def test_the_dataset_folder_is_not_written_to(self, job: Job, base: BaseModel, dataset: Path) -> None:
        before = sorted(dataset.rglob("*"))
        dataclasses.replace(job, trainer=dataclasses.replace(SHORT, packing=True)).run(base)
        assert sorted(dataset.rglob("*")) == before


def test_gpt2_takes_pefts_own_targets(dataset: Path, tmp_path: Path) -> None:
    base = read_base(tiny_model(tmp_path / "model", "gpt2"))
    job = Job(tmp_path / "job", dataset, LoraSettings(), SHORT)
    trained = job.run(base)
    assert list(trained.lora.target_modules) == ["c_attn"]
    assert last_parts(list(job.adapter())) == {"c_attn"}
    assert json.loads((job.output / "adapter_config.json").read_text())["fan_in_fan_out"] is True
