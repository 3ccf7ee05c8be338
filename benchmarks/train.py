"""Training: useful tokens a second of a job through the daemon, against TRL as the original design sets it, and tuned.

All three train on the same prepared rows in the same order, r 8 on q_proj and v_proj, effective batch 8. Only optimiser steps
are timed: no evaluation, no checkpoint, no start-up.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import psutil

from benchmarks.harness import REPOSITORY, Bench, Daemon, Result, daemon, peer, tell
from benchmarks.peers import Figures
from smolora import Client, TrainProgress

ORIGINAL = ("--dtype", "float32", "--batch", 1, "--accumulate", 8, "--checkpointing")
TUNED = ("--dtype", "bfloat16", "--batch", 8, "--accumulate", 1)


def project(client: Client, served: Daemon, dataset: str, steps: int) -> Figures:
    """One training job, from its events."""
    seconds, tokens, loss = 0.0, 0, 0.0
    run = client.train(dataset, "bench", max_steps=steps, logging_steps=1, save_steps=10_000)
    for event in run:
        if isinstance(event.body, TrainProgress):
            seconds += (event.body.tokens - tokens) / event.body.tokens_per_second
            tokens, loss = event.body.tokens, event.body.loss
    run.result()
    return {"train_tok_s": tokens / seconds, "peak_rss_bytes": _peak_rss(client.status().engine_pid), "last_loss": loss}


def _peak_rss(pid: int) -> float:
    """The engine's peak; where the system does not tell it of others, its memory now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return float(psutil.Process(pid).memory_info().rss)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=REPOSITORY / "examples" / "data", help="a folder of texts, or a JSONL file"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps a round; default: 6, quick: 2")


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("train", _arguments)
    steps = bench.given.steps or (2 if bench.quick else 6)
    result = Result(bench)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(daemon())
        client = stack.enter_context(served.client())
        resident = client.load(bench.model, keep_alive=-1).result()
        dataset = client.prepare("bench", bench.given.data, validation=0.0).result()
        tell(f"{resident.name} in {resident.dtype}, {dataset.train_rows} rows, {dataset.report.tokens} tokens")
        contenders = {"project": lambda: project(client, served, "bench", steps)}
        for name, settings in (("trl_original", ORIGINAL), ("trl_tuned", TUNED)):
            common = (bench.model, dataset.path, "--steps", steps, "--threads", bench.threads)
            contenders[name] = stack.enter_context(peer("trl_train", *common, *settings))
        result.run(contenders)
    ratios = {
        "train_vs_trl_original": result.ratio(("project", "train_tok_s"), ("trl_original", "train_tok_s")),
        "train_vs_trl_tuned": result.ratio(("project", "train_tok_s"), ("trl_tuned", "train_tok_s")),
        "memory_vs_trl_tuned": result.ratio(("trl_tuned", "peak_rss_bytes"), ("project", "peak_rss_bytes")),
    }
    print(result.line(ratios, dtype=str(resident.dtype), rows=dataset.train_rows, steps=steps))


if __name__ == "__main__":
    main()
