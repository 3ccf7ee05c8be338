"""Builds a training: the adapter on a view of the base, the rows, and a trainer for both."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor

from smolora.v1 import jobs_pb2
from smolorad.domain import Device, Estimate, LoraSettings, Note, TrainerSettings
from smolorad.engine.adapters.peft import adapter_weights, read_config
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.train.checkpoint import Checkpoints
from smolorad.engine.train.dataset import Rows, read_rows
from smolorad.engine.train.estimate import Workload, estimate, refuse, smaller
from smolorad.engine.train.fast.eligibility import reason_not_eligible
from smolorad.engine.train.fast.trainer import FastTrainer
from smolorad.engine.train.live_adapter import LiveAdapter
from smolorad.engine.train.lora import adapted_parameters, changes_base, lora_config, own_adapted_weights
from smolorad.engine.train.reports import Reports
from smolorad.engine.train.tensorboard import TensorBoard
from smolorad.engine.train.throughput import Throughput
from smolorad.engine.train.trainer import HostedTrainer
from smolorad.engine.train.training_host import HostCall
from smolorad.engine.train.trl_config import Setting, dpo_config, sft_config
from smolorad.engine.train.trl_trainers import LoraTrainer, PreferenceTrainer
from smolorad.errors import InvalidRequest, UnsupportedModel
from smolorad.link.convert import to_message


@dataclass(frozen=True, slots=True)
class Run:
    """The settings and folders of one training."""

    base: BaseModel
    host: HostCall
    lora: LoraSettings
    settings: TrainerSettings
    dataset: Path
    stage: Path
    parent: Path | None  # the PEFT folder that it continues from
    tensorboard: Path | None  # the folder of its curves
    processes: int = 1  # that share the run

    def note(self, text: str) -> None:
        """Sends the user a note."""
        self.host.emit(note=to_message(jobs_pb2.Note, Note(text)))


def assemble(run: Run, checkpoints: Checkpoints, *, done: int | None) -> HostedTrainer:
    """The trainer of a run; `done` is how many steps its checkpoint has, None for a new run.

    Raises InvalidRequest for settings that fit neither the model nor the rows, and what reading rows and adapters raises.
    """
    base, settings = run.base, run.settings
    # A copy, as TRL adds a padding token where there is none.
    tokenizer = copy.deepcopy(base.transformers_model().tokenizer)
    if tokenizer.eos_token is None:
        raise UnsupportedModel(f"The tokenizer of {base.name} has no end-of-text token, so it cannot learn where a text ends.")
    start = _Start.of(run)
    max_length = min(settings.max_length, base.context_length)
    if base.text is None:
        raise UnsupportedModel(f"The tokenizer of {base.name} is not one of the tokenizers library; train another model.")
    rows = read_rows(run.dataset, base.text, settings, max_length, run.host.yield_to_requests)
    _check(run, rows, start)
    for text in _notes(run, rows, max_length):
        run.note(text)
    setting = _setting(run, rows, max_length, is_new=done is None)
    live = LiveAdapter(base, settings, as_chat=rows.as_chat)
    throughput = Throughput(samples=settings.sample_steps if settings.sample_prompts else 0, saves=settings.save_steps)
    reports = Reports(run.host, TensorBoard(run.tensorboard, done or 0), throughput, rows.held_out_rows)

    def fitting(*, fast: bool) -> tuple[TrainerSettings, Estimate]:
        return _fitting(run, rows, start.config, done or 0, fast=fast)

    def build(kind: type[HostedTrainer], args: Any) -> HostedTrainer:
        return kind(
            model=start.model(base),
            args=args,
            train_dataset=rows.train,
            eval_dataset=rows.held_out,
            processing_class=tokenizer,
            host=run.host,
            checkpoints=checkpoints,
            reports=reports,
            settings=settings,
            live=live,
            **start.peft(),
        )

    if settings.trainer == "fast" and not rows.shape.is_preference:
        fitted, needed = fitting(fast=True)
        trainer = build(FastTrainer, sft_config(fitted, setting, whole_steps=True))
        if not (reason := reason_not_eligible(trainer, start.first_model(base, trainer.model), settings, max_length)):
            _report(run, fitted, needed)
            return trainer
        run.note(f"The plain trainer takes this run, as the fast one cannot: {reason}.")
    fitted, needed = fitting(fast=False)
    _report(run, fitted, needed)
    if rows.shape.is_preference:
        return build(PreferenceTrainer, dpo_config(fitted, setting))
    return build(LoraTrainer, sft_config(fitted, setting))


def _setting(run: Run, rows: Rows, max_length: int, *, is_new: bool) -> Setting:
    """Where and how TRL's trainer works; its folder is empty."""
    stage = run.stage / "trainer"
    shutil.rmtree(stage, ignore_errors=True)
    held_out = rows.held_out is not None
    return Setting(
        output_dir=stage,
        max_length=max_length,
        evaluates=held_out,
        evaluates_first=held_out and is_new,
        on_cpu=run.base.device is Device.CPU,
        processes=run.processes,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """What the adapter begins as: its shape, and its weights if it continues from another adapter."""

    config: LoraConfig
    weights: dict[str, Tensor] | None

    @classmethod
    def of(cls, run: Run) -> _Start:
        if run.parent is None:
            return cls(lora_config(run.lora, run.base.model), None)
        config = read_config(run.parent)
        weights = adapter_weights(run.base, config, run.parent)
        config.inference_mode, config.init_lora_weights = False, True
        config.task_type = "CAUSAL_LM"
        return cls(config, weights)

    def model(self, base: BaseModel) -> Any:
        """A view of the base, without an adapter for TRL to add one, or with the adapter that the run continues from."""
        view = base.view(own_biases=self.config.bias != "none" or self.config.lora_bias)
        if changes_base(self.config):
            own_adapted_weights(self.config, view)
        if self.weights is None:
            return view
        model = get_peft_model(view, copy.deepcopy(self.config))
        set_peft_model_state_dict(model, self.weights)
        return model

    def peft(self) -> dict[str, Any]:
        """The trainer's arguments for the adapter that it is to make."""
        return {"peft_config": copy.deepcopy(self.config)} if self.weights is None else {}

    def first_model(self, base: BaseModel, trained: PeftModel) -> Any:
        """The model that training begins with, computed as transformers computes it; `trained` is that model in the trainer."""
        if self.weights is None and not changes_base(self.config):
            return base.model
        model = self.model(base)
        if self.weights is None:  # a start out of the base's weights rounds them, so that it differs from the base
            config = copy.deepcopy(self.config)
            config.init_lora_weights = True
            model = get_peft_model(model, config)
            own = {
                name: tensor for name, tensor in trained.state_dict().items() if ".base_layer.weight" in name or "lora_" in name
            }
            model.load_state_dict(own, strict=False)
        return model.get_base_model().eval()


def _steps(settings: TrainerSettings, rows: Rows) -> int:
    """How many steps a run takes."""
    if settings.num_train_epochs is None:
        return settings.max_steps
    rows_a_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return math.ceil(len(rows.train) / rows_a_step * settings.num_train_epochs)


def _fitting(run: Run, rows: Rows, config: LoraConfig, done: int, *, fast: bool) -> tuple[TrainerSettings, Estimate]:
    """The settings, with layers computed again where memory is short, and what they take; raises OutOfMemory.

    Whether layers are computed again changes no result, so a run may continue either way.
    """
    settings, model = run.settings, run.base.model
    work = Workload.of(rows, settings, fast=fast)
    steps = _steps(settings, rows)
    trained = adapted_parameters(config, model)
    needed = estimate(model, trained, work, steps - done, checkpointing=settings.gradient_checkpointing)
    if not settings.gradient_checkpointing and needed.memory_bytes > needed.available_bytes:
        settings = dataclasses.replace(settings, gradient_checkpointing=True)
        needed = estimate(model, trained, work, steps - done, checkpointing=True)
    if needed.memory_bytes > needed.available_bytes:
        _report(run, settings, needed)
        raise refuse(needed, run.base.name, smaller(settings, fast=fast))
    return settings, needed


def _report(run: Run, settings: TrainerSettings, needed: Estimate) -> None:
    if settings.gradient_checkpointing and not run.settings.gradient_checkpointing:
        run.note("Memory is short, so activations are computed again in the backward pass, which is slower.")
    run.host.emit(estimate=to_message(jobs_pb2.Estimate, needed))


def _check(run: Run, rows: Rows, start: _Start) -> None:
    if rows.shape.is_preference and changes_base(start.config):
        raise InvalidRequest.field(
            "lora.init_lora_weights",
            f"{start.config.init_lora_weights} does not go with preference pairs, which compare with the base; choose true",
        )
    if run.settings.early_stopping_patience and rows.held_out is None:
        raise InvalidRequest.field(
            "trainer.early_stopping_patience", "needs held-out rows, and the dataset has none; prepare it with validation"
        )


def _notes(run: Run, rows: Rows, max_length: int) -> Iterator[str]:
    if rows.scored_share is not None:
        yield f"Learns the {rows.shape.unit}: {rows.scored_share:.0%} of the tokens; the rest is context."
    for why, left_out in rows.left_out.items():
        yield f"{left_out:,} rows are left out, as nothing of them would be learned: {why}."
    if rows.cut:
        how_many = f"{rows.cut:,} {'row is' if rows.cut == 1 else 'rows are'}"
        yield f"{how_many if rows.cut_is_exact else f'At least {how_many}'} longer than {max_length:,} tokens, and cut there."
    settings, steps = run.settings, _steps(run.settings, rows)
    if settings.warmup_steps >= 1 and steps <= settings.warmup_steps and settings.lr_scheduler_type != "constant":
        highest = settings.learning_rate * (steps - 1) / settings.warmup_steps
        why = f"the {settings.warmup_steps:,.0f} warm-up steps do not end within the run's {steps:,} steps"
        yield f"The learning rate of {settings.learning_rate:g} is never reached, but {highest:.2g}: {why}."
