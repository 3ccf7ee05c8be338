"""The whole job on a real model: prepare, train, merge, load, generate, through a daemon of its own.

    python -m examples.demo            (make demo)

A daemon starts in a temporary home and is stopped at the end; nothing of the user's is touched. The model learns the log of a
lighthouse keeper (examples/data/lighthouse) and is then asked to continue days it never saw. Everything runs in float32, so
that the adapter and the model merged from it can be compared word for word.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import smolora

DATA = Path(__file__).parent / "data" / "lighthouse"
PROMPTS = ("Log, 30th of February. Wind", "Log, 7th of May. Saw", "The lamp")
NEW_TOKENS = 40
Made = TypeVar("Made")
DRAIN_S = 30.0


@contextmanager
def temporary_daemon(console: Console) -> Iterator[smolora.Client]:
    """A daemon in a home of its own, and a client that talks to it."""
    with tempfile.TemporaryDirectory(prefix="smolora-demo-", dir="/tmp") as home:
        environ = {**os.environ, "SMOLORA_HOME": home, "SMOLORA_SOCKET": f"{home}/d.sock"}
        log = Path(home) / "daemon.log"
        with log.open("wb") as sink:
            daemon = subprocess.Popen([sys.executable, "-m", "smolorad.cli", "serve"], env=environ, stdout=sink, stderr=sink)
        client = smolora.Client(f"{home}/d.sock")
        try:
            wait_for(client, daemon)
            yield client
        except smolora.SmoloraError:
            console.print(log.read_text(errors="replace")[-4000:])
            raise
        finally:
            client.close()
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(DRAIN_S)
            except subprocess.TimeoutExpired:
                daemon.kill()


def wait_for(client: smolora.Client, daemon: subprocess.Popen[bytes], timeout_s: float = 30.0) -> None:
    """Returns when the daemon answers; raises Unreachable or TimedOut where it does not."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            client.status()
            return
        except (smolora.Unreachable, smolora.TimedOut):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def load(client: smolora.Client, progress: Progress, model: str) -> smolora.ResidentModel:
    """Loads a model, one bar for all stages."""
    task = progress.add_task(f"load {model}", total=None)
    loading = client.load(model, dtype="float32", keep_alive=-1)
    for stage in loading:
        detail = f": {stage.detail}" if stage.detail else ""
        progress.update(
            task,
            description=f"load {model}, {stage.stage}{detail}",
            completed=stage.done_bytes,
            total=stage.total_bytes or None,
        )
    progress.update(task, description=f"load {model}", total=1, completed=1)
    return loading.result()


def follow(run: smolora.JobRun[Made], progress: Progress, name: str) -> Made:
    """Shows a job's phases on one bar, and returns what it made."""
    task = progress.add_task(name, total=None)
    for event in run:
        if isinstance(event.body, smolora.PhaseProgress):
            body = event.body
            progress.update(task, description=f"{name}, {body.phase}", completed=body.done, total=body.total or None)
    progress.update(task, description=name, total=1, completed=1)
    return run.result()


def train(client: smolora.Client, progress: Progress, steps: int) -> smolora.Adapter:
    """Trains the adapter, with the loss beside the bar."""
    task = progress.add_task("train", total=steps)
    run = client.train("lighthouse", "keeper", max_steps=steps, learning_rate=5e-3, logging_steps=1)
    for event in run:
        if isinstance(event.body, smolora.TrainProgress):
            body = event.body
            progress.update(
                task,
                completed=body.step,
                description=f"train  loss {body.loss:.3f}  {body.tokens_per_second:.0f} tokens/s  {body.eta_s:.0f} s left",
            )
        elif isinstance(event.body, smolora.Evaluation):
            progress.print(f"held-out loss after step {event.body.step}: {event.body.loss:.3f} ({event.body.rows} rows)")
    return run.result()


def answers(client: smolora.Client, adapter: str = "") -> list[str]:
    """Greedy answers to the prompts."""
    return [client.generate(prompt, adapter=adapter, max_tokens=NEW_TOKENS, temperature=0).text() for prompt in PROMPTS]


def show(console: Console, columns: dict[str, list[str]]) -> None:
    """The same prompts, side by side."""
    table = Table(title="The same prompts, greedy", show_lines=True)
    table.add_column("prompt", style="bold")
    for name in columns:
        table.add_column(name)
    for i, prompt in enumerate(PROMPTS):
        table.add_row(prompt, *(column[i].strip() for column in columns.values()))
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """Runs the demo; 0 where the held-out loss fell and adapter and merged model agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="training steps (default 20)")
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 150)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with temporary_daemon(console) as client, Progress(*columns, console=console) as progress:
        base = load(client, progress, "starter")
        progress.print(f"{base.parameters / 1e6:.0f} million parameters, {base.dtype} on {base.device}")
        dataset = follow(client.prepare("lighthouse", DATA), progress, "prepare")
        progress.print(f"{dataset.train_rows} rows to learn from, {dataset.validation_rows} held out")
        before = answers(client)
        adapter = train(client, progress, arguments.steps)
        tuned = answers(client, "keeper")
        merged = follow(client.merge("keeper", "keeper-merged"), progress, "merge")
        load(client, progress, merged.name)
        after = answers(client)
    show(console, {"base": before, "adapter": tuned, "merged": after})
    first, last = adapter.eval_loss_before, adapter.eval_loss_after
    fell = first is not None and last is not None and last < first
    console.print(f"held-out loss: {first:.3f} before, {last:.3f} after {adapter.steps} steps")
    console.print(f"adapter and merged model answer identically: {'yes' if tuned == after else 'NO'}")
    console.print(f"{time.monotonic() - began:.0f} seconds")
    return 0 if fell and tuned == after else 1


if __name__ == "__main__":
    sys.exit(main())
