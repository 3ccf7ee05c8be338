"""The usage example that the project began with, on the starter model: train, save, load what was merged, ask.

    python -m examples.usage                 (20 steps; the original took 500: --steps 500)

Everything happens twice, each time with a new `SmoLoRA`. The second one finds daemon, engine and base at work already; a table
at the end shows what that saves. Where no daemon runs one is started, and stays.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from smolora import SmoLoRA
from smolora.local_text import load_text_data

DATA = Path(__file__).parent / "data" / "lighthouse"
PROMPTS = (
    "Write a glowing review of a visit to a spa.",
    "Write a review of a frustrating afternoon at a car dealership.",
    "Describe a night at a concert.",
)
PHASES = ("initialisation", "custom dataset", "training", "saving", "loading", "inference")


class Stopwatch:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Adds what happens inside to a phase."""
        began = time.monotonic()
        yield
        self.seconds[phase] += time.monotonic() - began


def job(given: argparse.Namespace, console: Console) -> dict[str, float]:
    """The whole job, once; returns the seconds of its phases."""
    timed = Stopwatch()
    with timed("initialisation"):
        trainer = SmoLoRA(given.model, DATA, output_dir=given.output, max_steps=given.steps)
    with trainer:
        with timed("custom dataset"):
            trainer.dataset = load_text_data(DATA)
        with timed("training"):
            trainer.train()
        with timed("saving"):
            trainer.save()
        with timed("loading"):
            trainer.load_model(f"{given.output}/final_merged")
        for prompt in PROMPTS:
            with timed("inference"):
                answer = trainer.inference(prompt, max_new_tokens=given.new_tokens, temperature=0.7)
            console.rule(prompt)
            console.print(answer, markup=False, highlight=False)
    return timed.seconds


def show(console: Console, first: dict[str, float], second: dict[str, float]) -> None:
    """The seconds of both runs, side by side."""
    table = Table(title="Seconds")
    table.add_column("phase", style="bold")
    for name in ("first run", "second run"):
        table.add_column(name, justify="right")
    for phase in PHASES:
        table.add_row(phase, f"{first[phase]:.2f}", f"{second[phase]:.2f}")
    table.add_section()
    table.add_row("all", f"{sum(first.values()):.2f}", f"{sum(second.values()):.2f}")
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    """Runs the job twice and shows how long its phases took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter", help="the base: a name, a hub id, a folder (default starter)")
    parser.add_argument("--steps", type=int, default=20, help="training steps (default 20)")
    parser.add_argument("--new-tokens", type=int, default=250, help="tokens of each answer (default 250)")
    parser.add_argument(
        "--output", default="./fine_tuned_model", help="the folder for what is made (default ./fine_tuned_model)"
    )
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s")
    console = Console()
    first = job(given, console)
    second = job(given, console)
    show(console, first, second)


if __name__ == "__main__":
    main()
