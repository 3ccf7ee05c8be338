"""A training's curves as TensorBoard files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smolorad.domain import Evaluation, Sample, TrainProgress

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class TensorBoard:
    """Writes the reports of a training; a run that continues appends, and a repeated step replaces its earlier report."""

    def __init__(self, folder: Path | None, first_step: int = 0) -> None:
        """None writes nothing; `first_step` is the first that is reported here."""
        self._writer: SummaryWriter | None = None
        if folder is not None:
            from tensorboardX import SummaryWriter  # most trainings write none

            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def progress(self, report: TrainProgress) -> None:
        """A report of training."""
        if self._writer is not None:
            for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "reward_accuracy"):
                if (value := getattr(report, name)) is not None:
                    self._writer.add_scalar(f"train/{name}", value, report.step)
            self._writer.flush()

    def evaluation(self, report: Evaluation) -> None:
        """A measurement on the held-out rows."""
        if self._writer is not None:
            self._writer.add_scalar("eval/loss", report.loss, report.step)
            self._writer.add_scalar("eval/perplexity", report.perplexity, report.step)
            self._writer.flush()

    def sample(self, report: Sample) -> None:
        """An answer to a sample prompt."""
        if self._writer is not None:
            self._writer.add_text(f"sample/{report.prompt[:60]}", report.text, report.step)
            self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
