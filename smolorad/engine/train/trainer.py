"""TRL's trainers, with the places where a training breathes, reports, checkpoints and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState
from trl import DPOTrainer, SFTTrainer

from smolora.v1 import jobs_pb2
from smolorad.domain import Checkpoint, Evaluation, Sample, TrainerSettings, TrainProgress
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.train.checkpoint import Checkpoints, RunState
from smolorad.engine.train.held_out import HeldOut
from smolorad.engine.train.live_adapter import LiveAdapter
from smolorad.engine.train.lora import adapter_tensors, changes_base, write_adapter
from smolorad.engine.train.rng import untouched_random
from smolorad.engine.train.tensorboard import TensorBoard
from smolorad.engine.train.throughput import Pace
from smolorad.engine.train.tokenize import UNSCORED
from smolorad.engine.train.training_host import Host
from smolorad.errors import NotFinite, ShuttingDown
from smolorad.link.convert import to_message

_MPS_RNG = "rng_state_mps.pth"


class _Stopped(Exception):
    """An evaluation was given up, because the training is to end."""


class HostedTrainer(Trainer):
    """A trainer for one call of one host; what it computes is its other parent's.

    It computes what that one computes, with one exception: an evaluation leaves the random numbers where they were, so that
    measuring does not change what is trained. (Plain Trainer draws one number from torch's generator for each evaluation.)
    """

    def __init__(
        self,
        *args: Any,
        host: Host,
        call: int,
        checkpoints: Checkpoints,
        held_out_rows: int,
        settings: TrainerSettings,
        live: LiveAdapter,
        board: TensorBoard,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self._host, self._call, self.breathes_between = host, call, "micro-steps"
        self._checkpoints = checkpoints
        self._held_out_rows = held_out_rows
        self._pace = Pace(samples=settings.sample_steps if settings.sample_prompts else 0, saves=settings.save_steps)
        self._nats, self._measured, self._step_loss, self._step_scored = 0.0, 0, 0.0, 0
        self._live, self.board = live, board
        self._snapshot: tuple[int, Adapter] | None = None
        self._patience = settings.early_stopping_patience
        self.run = RunState()
        # A start that was taken out of the base's weights is needed at the end, to give it back.
        config = self.model.peft_config["default"]
        self.start = adapter_tensors(self.model) if changes_base(config) else {}
        self.add_callback(_Flow(self, settings))
        self.remove_callback(PrinterCallback)

    @property
    def stopping(self) -> bool:
        """Whether the run is to end at this step."""
        return self._host.stopping(self._call)

    @property
    def finished(self) -> bool:
        """Whether every step is done and measured."""
        measured = self.eval_dataset is None or self.run.eval_loss_after is not None
        return (self.state.max_steps > 0 and self.state.global_step >= self.state.max_steps and measured) or self.gave_up

    @property
    def gave_up(self) -> bool:
        """Whether so many evaluations have brought no lower loss that no more steps are taken."""
        return 0 < self._patience <= self.run.evaluations_in_vain

    def restore(self, checkpoint: Path, state: TrainerState) -> None:
        """Takes a checkpoint whose steps are all done, and measures it if that is still to do."""
        self.state = state
        self._load_from_checkpoint(str(checkpoint))
        if not self.finished:
            self.evaluate()

    def begins(self) -> None:
        """The first step is next: from now on others may ask for the adapter."""
        self._host.offer(self._call, self.snapshot, self.breathes_between)

    def snapshot(self) -> tuple[int, Adapter]:
        """The adapter after the last step, and that step's number; a copy that training does not change."""
        step = self.state.global_step
        if self._snapshot is None or self._snapshot[0] != step:
            config = self.model.peft_config["default"]
            self._snapshot = step, self._live.adapter(adapter_tensors(self.model), self.start, config)
        return self._snapshot

    def show(self, prompts: Sequence[str]) -> None:
        """Tells what the adapter now answers to some prompts."""
        with self._pace.aside(), untouched_random():
            step, adapter = self.snapshot()
            for prompt in prompts:
                text = self._live.answer(adapter, prompt, lambda: self._host.yield_to_requests(self._call))
                sample = Sample(step, prompt, text)
                self.board.sample(sample)
                self._host.emit(self._call, sample=to_message(jobs_pb2.Sample, sample))

    def training_step(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Tensor:
        """One micro-step, after a breath. Raises NotFinite."""
        self._breathe()
        self._pace.start(self.state.global_step, self.state.num_input_tokens_seen)
        loss: Tensor = super().training_step(model, inputs, *args, **more)
        self._step_scored += self._scored_tokens(inputs)
        # TRL divides by the scored tokens of the whole step, so the losses of its micro-steps add up to the step's.
        self._step_loss += self._finite(loss.item(), self._of_step("loss"))
        return loss

    def settle(self) -> None:
        """A step is done: what this process and the others have of it is added up."""
        loss, scored = self._together(self._step_loss, self._step_scored)
        self.run.loss_sum += loss / self.accelerator.num_processes
        self.run.scored_tokens += int(scored)
        self._step_loss, self._step_scored = 0.0, 0

    def stops_now(self) -> bool:
        """Whether the run is to end at this step, which all processes decide together."""
        (asked,) = self._together(float(self.stopping))
        return asked > 0

    def get_eval_dataloader(self, eval_dataset: Any = None) -> HeldOut:
        """This process's part of the held-out rows. Trainer's own repeats some where they do not divide evenly."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        self._held_out = HeldOut(rows, self.data_collator, self.args.eval_batch_size, process, processes)
        return self._held_out

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        """One evaluation batch, after a breath."""
        if self.accelerator.num_processes == 1 and self.stopping:
            raise _Stopped
        self._breathe()
        weight = self._weight(inputs) if self._held_out.counts else 0
        result = super().prediction_step(model, inputs, *args, **more)
        self._nats += result[0].item() * weight
        self._measured += weight
        return result

    def evaluate(self, *args: Any, **more: Any) -> dict[str, float]:
        """Mean loss per scored token on the held-out rows. Trainer's own mean is over batches, and changes with their size."""
        self._nats, self._measured = 0.0, 0
        started = time.monotonic()
        try:
            with untouched_random():
                metrics: dict[str, float] = super().evaluate(*args, **more)
        except _Stopped:
            if self.state.global_step == 0:
                raise ShuttingDown("The training was stopped before its first step; it starts with its next turn.") from None
            self.control.should_save = self.control.should_training_stop = True
            return {}
        nats, measured = self._together(self._nats, self._measured)
        loss = nats / max(measured, 1)
        self._tell_evaluation(loss, time.monotonic() - started)
        return metrics | {"eval_loss": loss}

    def log(self, logs: dict[str, float], *args: Any, **more: Any) -> None:
        """Trainer's log, of which the reports of training go to the host."""
        super().log(logs, *args, **more)
        if "loss" in logs:
            self._tell_progress(logs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What resuming needs of the model: the adapter. Trainer would add the tokenizer and its pickled arguments."""
        assert output_dir is not None
        if not self.is_world_process_zero():
            return
        config = self.model.peft_config["default"]
        write_adapter(Path(output_dir), adapter_tensors(self.model), config, self._live.source)

    def create_model_card(self, *args: Any, **more: Any) -> None:
        """None: a checkpoint is for this daemon alone."""

    def _send_telemetry(self) -> None:
        """Nothing about a training leaves this machine, whatever the environment says."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        with self._pace.aside("saves"):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its random numbers
            if self.is_world_process_zero():
                self._checkpoints.publish(Path(self.args.output_dir, f"checkpoint-{step}"), step, self.run)
        self._host.emit(self._call, checkpoint=to_message(jobs_pb2.Checkpoint, Checkpoint(step)))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.device.type == "mps":  # Trainer leaves it out, and dropout would differ after a resume
            torch.save(torch.mps.get_rng_state(), Path(output_dir, _MPS_RNG))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and (path := Path(checkpoint, _MPS_RNG)).exists() and self.args.device.type == "mps":
            torch.mps.set_rng_state(torch.load(path, weights_only=True))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self._finite(norm.item() if isinstance(norm, Tensor) else norm, self._of_step("gradient"))

    def _scored_tokens(self, inputs: Any) -> int:
        """How many tokens of a batch are scored."""
        return int((inputs["labels"][..., 1:] != UNSCORED).sum())

    def _weight(self, inputs: Any) -> int:
        """What the mean loss of an evaluation batch counts for."""
        return self._scored_tokens(inputs)

    def _breathe(self) -> None:
        with untouched_random():
            self._host.yield_to_requests(self._call)

    def _together(self, *values: float) -> list[float]:
        """Sums over all processes of a run; one alone has them already."""
        if self.accelerator.num_processes == 1:
            return list(values)
        sums = self.accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.args.device), "sum")
        return [float(value) for value in sums]

    def _of_step(self, what: str) -> str:
        return f"{what} of step {self.state.global_step + 1}"

    def _finite(self, value: float, what: str) -> float:
        if math.isfinite(value):
            return value
        if self.state.global_step == 0:
            raise NotFinite(
                f"The {what} is {value}, before anything was trained; load the base in float32, "
                "or get it again, as its own weights may not be finite."
            )
        raise NotFinite(f"The {what} is {value}; train again with a lower trainer.learning_rate, or with the base in float32.")

    def _tell_progress(self, logs: dict[str, float]) -> None:
        state, run = self.state, self.run
        left = state.max_steps - state.global_step
        evaluations = int(left > 0) + (left - 1) // self.args.eval_steps if self.args.eval_steps and left else int(left > 0)
        rate, left_s = self._pace.report(state.global_step, state.num_input_tokens_seen, left, evaluations)
        progress = TrainProgress(
            step=state.global_step,
            max_steps=state.max_steps,
            epoch=float(state.epoch or 0.0),
            loss=(run.loss_sum - run.reported_loss_sum) / (state.global_step - run.reported_step),
            learning_rate=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            tokens_per_second=rate,
            eta_s=left_s,
            tokens=state.num_input_tokens_seen,
            scored_tokens=run.scored_tokens,
            reward_accuracy=logs.get("rewards/accuracies"),
        )
        run.reported_loss_sum, run.reported_step = run.loss_sum, state.global_step
        self.board.progress(progress)
        self._host.emit(self._call, train=to_message(jobs_pb2.TrainProgress, progress))

    def _tell_evaluation(self, loss: float, seconds: float) -> None:
        step = self.state.global_step
        self._finite(loss, "held-out loss")
        if step == 0:
            self.run.eval_loss_before = loss
        else:
            self._compare(loss)
        if step >= self.state.max_steps or self.gave_up:
            self.run.eval_loss_after = self.run.best_eval_loss if self._patience else loss
        perplexity = math.exp(min(loss, 700.0))  # a double ends there
        evaluation = Evaluation(step, loss, perplexity, self._held_out_rows, seconds)
        self._pace.evaluated(seconds)
        self.board.evaluation(evaluation)
        self._host.emit(self._call, evaluation=to_message(jobs_pb2.Evaluation, evaluation))

    def _compare(self, loss: float) -> None:
        """Where the run may stop early: keeps the adapter of the lowest held-out loss, and ends what brings no lower one."""
        run, step = self.run, self.state.global_step
        if not self._patience:
            return
        if run.best_eval_loss is None or loss < run.best_eval_loss:
            run.best_eval_loss, run.best_step, run.evaluations_in_vain = loss, step, 0
            if self.is_world_process_zero():
                self._checkpoints.keep_best(adapter_tensors(self.model), step)
            return
        run.evaluations_in_vain += 1
        if self.gave_up:
            self.control.should_training_stop = self.control.should_save = True


class LoraTrainer(HostedTrainer, SFTTrainer):
    """SFTTrainer for one call of one host; its loss is the mean over the tokens that are predicted and scored, of every model.

    Trainer would count the first token of each row, too, which nothing predicts, for classes such as GPT2LMHeadModel; and
    none at all, so that each micro-step counts alike, for classes whose own loss takes no count.
    """

    data_collator: Callable[[Any], Any]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.data_collator = _without_firsts(self.data_collator)
        self.model_accepts_loss_kwargs = True


def _without_firsts(collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def collated(rows: Any) -> Any:
        batch = collate(rows)
        batch["labels"][:, 0] = UNSCORED  # of a flat row of several texts, TRL leaves the others' out
        return batch

    return collated


class PreferenceTrainer(HostedTrainer, DPOTrainer):
    """DPOTrainer for one call of one host; what the adapter began from is the reference, so no second model is in memory."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **more: Any) -> Any:
        return dataset  # rows.py has done it

    def _scored_tokens(self, inputs: Any) -> int:
        return int(inputs["completion_mask"].sum())

    def _weight(self, inputs: Any) -> int:
        return len(inputs["completion_mask"]) // 2  # pairs


class _Flow(TrainerCallback):
    """What happens at the end of a step, besides what Trainer's own settings ask for."""

    def __init__(self, trainer: HostedTrainer, settings: TrainerSettings) -> None:
        self._trainer = trainer
        self._settings = settings
        self._saved_s = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Whatever a checkpoint held is in place."""
        self._trainer.begins()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The time to the next checkpoint begins."""
        self._saved_s = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """When it is time, a checkpoint and samples; after the last step, a report too; if it is to stop, the end."""
        self._trainer.settle()
        limit_s, last = self._settings.save_seconds, state.global_step >= state.max_steps
        # Processes that share a run have no clock in common: they save by step alone.
        if limit_s and self._trainer.accelerator.num_processes == 1 and time.monotonic() - self._saved_s >= limit_s:
            control.should_save = True
        if self._trainer.is_world_process_zero() and (last or state.global_step % self._settings.sample_steps == 0):
            self._trainer.show(self._settings.sample_prompts)
        if last:
            control.should_log = True
            control.should_evaluate = self._trainer.eval_dataset is not None
        if self._trainer.stops_now():
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
