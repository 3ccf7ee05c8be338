"""How far work is, on stderr: bars on a terminal, plain lines otherwise, nothing with JSON."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from smolora import _values as values
from smolora.cli.output import Output, number, size, span


def describe(event: values.JobEvent) -> str:
    """An event as one line."""
    body = event.body
    if isinstance(body, values.TrainProgress):
        return (
            f"step {body.step}/{body.max_steps}  loss {body.loss:.4f}  learning rate {body.learning_rate:.2e}  "
            f"gradient norm {body.grad_norm:.3g}  {body.tokens_per_second:.0f} tokens/s  {span(body.eta_s)} left"
        )
    if isinstance(body, values.Evaluation):
        return f"held-out loss {body.loss:.4f}  perplexity {body.perplexity:.2f}  after step {body.step}, on {body.rows} rows"
    if isinstance(body, values.PhaseProgress):
        return f"{body.phase}  {_amount(body.done, body.total, body.unit)}".rstrip()
    if isinstance(body, values.Checkpoint):
        return f"checkpoint at step {body.step}"
    if isinstance(body, values.Sample):
        return f"after step {body.step}  {body.prompt!r} -> {body.text!r}"
    if isinstance(body, values.Estimate):
        return (
            f"needs about {size(body.memory_bytes)} of memory, {size(body.available_bytes)} are free; "
            f"about {span(body.seconds)} in all"
        )
    if isinstance(body, values.StateChange):
        return f"{body.state}: {body.why}" if body.why else str(body.state)
    return body.text


def describe_loading(progress: values.LoadProgress) -> str:
    """A stage of loading as one line."""
    amount = _amount(progress.done_bytes, progress.total_bytes, "bytes")
    return "  ".join(part for part in (progress.stage.replace("_", "-"), amount, progress.detail) if part)


def _amount(done: int, total: int, unit: str) -> str:
    if not done and not total:
        return ""
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    return f"{number(done)} of {number(total)} {unit}".rstrip() if total else f"{number(done)} {unit}".rstrip()


class Progress:
    """Shows work as it goes. Use it in a `with`; lines outlive it, the bar does not."""

    def __init__(self, out: Output) -> None:
        self._silent = out.json
        self._bar: Any = None
        self._task: Any = None
        if not self._silent and sys.stderr.isatty():
            self._bar = _rich_bar()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def event(self, event: values.JobEvent) -> None:
        """Shows an event of a job."""
        body, line = event.body, describe(event)
        if isinstance(body, values.TrainProgress):
            self.step(line, body.step, body.max_steps)
        elif isinstance(body, values.PhaseProgress):
            self.step(line, body.done, body.total)
        else:
            self.line(line)

    def step(self, line: str, done: int, total: int) -> None:
        """How far something is: moves the bar, or writes a line."""
        if self._bar is None:
            self.line(line)
            return
        if self._task is None:
            self._task = self._bar.add_task(line, total=None)
        self._bar.update(self._task, description=line, completed=done, total=total or None)

    def sent(self, done: int, total: int) -> None:
        """How far an upload is; without a terminal only its beginning and end are shown."""
        if self._bar is not None or done in (0, total):
            self.step(f"upload  {_amount(done, total, 'bytes')}", done, total)

    def line(self, line: str) -> None:
        """Writes a line that stays."""
        if self._bar is not None:
            self._bar.console.print(line)
        elif not self._silent:
            print(line, file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True, markup=False, highlight=False)
    return RichProgress(*columns, console=console, transient=True)
