"""Checkpoints by time, samples, the last report, and an early end: decided after each step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from smolorad.domain import TrainerSettings

if TYPE_CHECKING:
    from smolorad.engine.train.trainer import HostedTrainer


class StepCallback(TrainerCallback):
    """What a training does at the end of a step, besides what Trainer's own settings ask for."""

    def __init__(self, trainer: HostedTrainer, settings: TrainerSettings) -> None:
        self._trainer = trainer
        self._settings = settings
        self._saved_s = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint, if there is one, is loaded by now."""
        self._trainer.offer_adapter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restarts the time to the next checkpoint."""
        self._saved_s = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Asks for what is due: a checkpoint, samples, a report after the last step, the end of the run."""
        self._trainer.reduce_step()
        limit_s, last = self._settings.save_seconds, state.global_step >= state.max_steps
        # Processes that share a run have no common clock: they save by step alone.
        if limit_s and self._trainer.accelerator.num_processes == 1 and time.monotonic() - self._saved_s >= limit_s:
            control.should_save = True
        if self._trainer.is_world_process_zero() and (last or state.global_step % self._settings.sample_steps == 0):
            self._trainer.log_samples(self._settings.sample_prompts)
        if last:
            control.should_log = True
            control.should_evaluate = self._trainer.eval_dataset is not None
        if self._trainer.should_stop():
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
