"""What a training reports: events for its host, and TensorBoard files."""

from __future__ import annotations

import math
from typing import Any

from smolora.v1 import jobs_pb2
from smolorad.domain import Checkpoint, Evaluation, Sample, TrainProgress
from smolorad.engine.train.checkpoint import RunState
from smolorad.engine.train.tensorboard import TensorBoard
from smolorad.engine.train.throughput import Throughput
from smolorad.engine.train.training_host import HostCall
from smolorad.link.convert import to_message


class Reports:
    """Writes each report to both."""

    def __init__(self, host: HostCall, tensorboard: TensorBoard, throughput: Throughput, held_out_rows: int) -> None:
        self.throughput = throughput
        self._host = host
        self._tensorboard = tensorboard
        self._held_out_rows = held_out_rows

    def progress(self, state: Any, run: RunState, logs: dict[str, float], evaluations_left: int) -> None:
        """The steps since the last report; `state` is Trainer's, and `logs` what it logs of its last step."""
        steps_left = state.max_steps - state.global_step
        rate, left_s = self.throughput.report(state.global_step, state.num_input_tokens_seen, steps_left, evaluations_left)
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
        self._tensorboard.progress(progress)
        self._host.emit(train=to_message(jobs_pb2.TrainProgress, progress))

    def evaluation(self, step: int, loss: float, seconds: float) -> None:
        """The held-out loss after a step, and how long measuring it took."""
        perplexity = math.exp(min(loss, 700.0))  # e^700 is about the largest double
        evaluation = Evaluation(step, loss, perplexity, self._held_out_rows, seconds)
        self.throughput.evaluated(seconds)
        self._tensorboard.evaluation(evaluation)
        self._host.emit(evaluation=to_message(jobs_pb2.Evaluation, evaluation))

    def sample(self, sample: Sample) -> None:
        """The adapter's answer to a sample prompt."""
        self._tensorboard.sample(sample)
        self._host.emit(sample=to_message(jobs_pb2.Sample, sample))

    def checkpoint(self, step: int) -> None:
        """A checkpoint is complete."""
        self._host.emit(checkpoint=to_message(jobs_pb2.Checkpoint, Checkpoint(step)))

    def close(self) -> None:
        """Ends the TensorBoard files."""
        self._tensorboard.close()
