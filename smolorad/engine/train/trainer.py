"""Where a training serves requests, reports, checkpoints and stops: between the steps of transformers' Trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerState

from smolorad.domain import Sample, TrainerSettings
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.train.checkpoint import Checkpoints, RunState
from smolorad.engine.train.held_out import HeldOut
from smolorad.engine.train.live_adapter import LiveAdapter
from smolorad.engine.train.lora import adapter_tensors, changes_base, write_adapter
from smolorad.engine.train.reports import Reports
from smolorad.engine.train.rng import untouched_random
from smolorad.engine.train.step_callback import StepCallback
from smolorad.engine.train.tokenize import UNSCORED
from smolorad.engine.train.training_host import HostCall
from smolorad.errors import NotFinite, ShuttingDown

_MPS_RNG = "rng_state_mps.pth"


class _EvaluationStopped(Exception):
    """An evaluation ends early, because the training is to end."""


class HostedTrainer(Trainer):
    """A trainer inside a host. It computes what its other parent computes, one of TRL's trainers.

    There is one exception: an evaluation leaves the random numbers where they were, so that measuring does not change what is
    trained. (Plain Trainer draws one number from torch's generator for each evaluation.)
    """

    def __init__(
        self,
        *args: Any,
        host: HostCall,
        checkpoints: Checkpoints,
        reports: Reports,
        settings: TrainerSettings,
        live: LiveAdapter,
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self._host, self.yields_between = host, "micro-steps"
        self._checkpoints = checkpoints
        self.reports, self._throughput = reports, reports.throughput
        self._eval_loss_sum, self._eval_weight = 0.0, 0
        self._step_loss, self._step_scored = 0.0, 0
        self._live = live
        self._snapshot: tuple[int, Adapter] | None = None
        self._patience = settings.early_stopping_patience
        self.run = RunState()
        # A start that PEFT took out of the base's weights is needed at the end, to put it back.
        config = self.model.peft_config["default"]
        self.start = adapter_tensors(self.model) if changes_base(config) else {}
        self.add_callback(StepCallback(self, settings))
        self.remove_callback(PrinterCallback)

    @property
    def stopping(self) -> bool:
        """Whether the run is to end at this step."""
        return self._host.stopping()

    @property
    def finished(self) -> bool:
        """Whether every step is done and measured."""
        measured = self.eval_dataset is None or self.run.eval_loss_after is not None
        return (self.state.max_steps > 0 and self.state.global_step >= self.state.max_steps and measured) or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the run: too many evaluations in a row brought no lower loss."""
        return 0 < self._patience <= self.run.evaluations_in_vain

    def restore(self, checkpoint: Path, state: TrainerState) -> None:
        """Loads a checkpoint whose steps are all done, and evaluates it if that is not done."""
        self.state = state
        self._load_from_checkpoint(str(checkpoint))
        if not self.finished:
            self.evaluate()

    def offer_adapter(self) -> None:
        """Lets requests have the adapter, from before the first step on."""
        self._host.offer(self.snapshot, self.yields_between)

    def snapshot(self) -> tuple[int, Adapter]:
        """The adapter after the last step, and that step's number; a copy that training does not change."""
        step = self.state.global_step
        if self._snapshot is None or self._snapshot[0] != step:
            config = self.model.peft_config["default"]
            self._snapshot = step, self._live.adapter(adapter_tensors(self.model), self.start, config)
        return self._snapshot

    def log_samples(self, prompts: Sequence[str]) -> None:
        """Reports what the adapter now answers to some prompts."""
        with self._throughput.aside(), untouched_random():
            step, adapter = self.snapshot()
            for prompt in prompts:
                self.reports.sample(Sample(step, prompt, self._live.generate(adapter, prompt, self._host.yield_to_requests)))

    def training_step(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Tensor:
        """One micro-step, after serving requests. Raises NotFinite."""
        self._yield_to_requests()
        self._throughput.start(self.state.global_step, self.state.num_input_tokens_seen)
        loss: Tensor = super().training_step(model, inputs, *args, **more)
        self._step_scored += self._scored_tokens(inputs)
        # TRL divides by the scored tokens of the whole step, so the losses of its micro-steps add up to the step's.
        self._step_loss += self._check_finite(loss.item(), self._of_step("loss"))
        return loss

    def reduce_step(self) -> None:
        """Adds up what all processes have of a finished step."""
        loss, scored = self._sum_over_processes(self._step_loss, self._step_scored)
        self.run.loss_sum += loss / self.accelerator.num_processes
        self.run.scored_tokens += int(scored)
        self._step_loss, self._step_scored = 0.0, 0

    def should_stop(self) -> bool:
        """Whether the run is to end at this step; all processes decide the same."""
        (asked,) = self._sum_over_processes(float(self.stopping))
        return asked > 0

    def get_eval_dataloader(self, eval_dataset: Any = None) -> HeldOut:
        """This process's part of the held-out rows. Trainer's own loader repeats rows where they do not divide evenly."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        self._held_out = HeldOut(rows, self.data_collator, self.args.eval_batch_size, process, processes)
        return self._held_out

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        """One evaluation batch, after serving requests."""
        if self.accelerator.num_processes == 1 and self.stopping:
            raise _EvaluationStopped
        self._yield_to_requests()
        weight = self._weight(inputs) if self._held_out.counts else 0
        result = super().prediction_step(model, inputs, *args, **more)
        self._eval_loss_sum += result[0].item() * weight
        self._eval_weight += weight
        return result

    def evaluate(self, *args: Any, **more: Any) -> dict[str, float]:
        """Mean loss per scored token on the held-out rows. Trainer's own mean is over batches, and depends on their size."""
        self._eval_loss_sum, self._eval_weight = 0.0, 0
        started = time.monotonic()
        try:
            with untouched_random():
                metrics: dict[str, float] = super().evaluate(*args, **more)
        except _EvaluationStopped:
            if self.state.global_step == 0:
                raise ShuttingDown("The training was stopped before its first step; it starts with its next turn.") from None
            self.control.should_save = self.control.should_training_stop = True
            return {}
        loss_sum, weight = self._sum_over_processes(self._eval_loss_sum, self._eval_weight)
        loss = loss_sum / max(weight, 1)
        self._evaluated(loss, time.monotonic() - started)
        return metrics | {"eval_loss": loss}

    def log(self, logs: dict[str, float], *args: Any, **more: Any) -> None:
        """Trainer's log; a report of training goes to the host, too."""
        super().log(logs, *args, **more)
        if "loss" in logs:
            self.reports.progress(self.state, self.run, logs, self._evaluations_left())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What resuming needs of the model: the adapter. Trainer would add the tokenizer and its pickled arguments."""
        assert output_dir is not None
        if not self.is_world_process_zero():
            return
        config = self.model.peft_config["default"]
        write_adapter(Path(output_dir), adapter_tensors(self.model), config, self._live.source)

    def create_model_card(self, *args: Any, **more: Any) -> None:
        """Writes no card: a checkpoint is only for this daemon."""

    def _send_telemetry(self) -> None:
        """Nothing about a training leaves this machine, whatever the environment says."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        with self._throughput.aside("saves"):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its random numbers
            if self.is_world_process_zero():
                self._checkpoints.publish(Path(self.args.output_dir, f"checkpoint-{step}"), step, self.run)
        self.reports.checkpoint(step)

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
        return self._check_finite(norm.item() if isinstance(norm, Tensor) else norm, self._of_step("gradient"))

    def _scored_tokens(self, inputs: Any) -> int:
        """How many tokens of a batch are scored."""
        return int((inputs["labels"][..., 1:] != UNSCORED).sum())

    def _weight(self, inputs: Any) -> int:
        """The weight of an evaluation batch's mean loss."""
        return self._scored_tokens(inputs)

    def _yield_to_requests(self) -> None:
        with untouched_random():
            self._host.yield_to_requests()

    def _sum_over_processes(self, *values: float) -> list[float]:
        """Sums over all processes that share the run."""
        if self.accelerator.num_processes == 1:
            return list(values)
        sums = self.accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.args.device), "sum")
        return [float(value) for value in sums]

    def _of_step(self, what: str) -> str:
        return f"{what} of step {self.state.global_step + 1}"

    def _check_finite(self, value: float, what: str) -> float:
        if math.isfinite(value):
            return value
        if self.state.global_step == 0:
            raise NotFinite(
                f"The {what} is {value}, before anything was trained; load the base in float32, "
                "or get it again, as its own weights may not be finite."
            )
        raise NotFinite(f"The {what} is {value}; train again with a lower trainer.learning_rate, or with the base in float32.")

    def _evaluations_left(self) -> int:
        left = self.state.max_steps - self.state.global_step
        return int(left > 0) + (left - 1) // self.args.eval_steps if self.args.eval_steps and left else int(left > 0)

    def _evaluated(self, loss: float, seconds: float) -> None:
        step = self.state.global_step
        self._check_finite(loss, "held-out loss")
        if step == 0:
            self.run.eval_loss_before = loss
        else:
            self._consider_stopping(loss)
        if step >= self.state.max_steps or self.stopped_early:
            self.run.eval_loss_after = self.run.best_eval_loss if self._patience else loss
        self.reports.evaluation(step, loss, seconds)

    def _consider_stopping(self, loss: float) -> None:
        """With early stopping: keeps the adapter with the lowest held-out loss, and ends a run that no longer lowers it."""
        run, step = self.run, self.state.global_step
        if not self._patience:
            return
        if run.best_eval_loss is None or loss < run.best_eval_loss:
            run.best_eval_loss, run.best_step, run.evaluations_in_vain = loss, step, 0
            if self.is_world_process_zero():
                self._checkpoints.keep_best(adapter_tensors(self.model), step)
            return
        run.evaluations_in_vain += 1
        if self.stopped_early:
            self.control.should_training_stop = self.control.should_save = True
