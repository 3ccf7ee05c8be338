"""Training: useful tokens a second of a job through the daemon, against TRL as the original design sets it, and tuned.

All train on the same prepared rows in the same order, r 8 on q_proj and v_proj, effective batch 8, dropout 0 so that their
losses can be compared step by step. Only optimiser steps are timed: no evaluation, no checkpoint, no start-up. The same again
on long rows, neighbours joined; TRL then also with its packing, which trains on other rows at a time. And how the project's
training and its generation get along.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import psutil

from benchmarks import company
from benchmarks.harness import REPOSITORY, Bench, Daemon, Result, daemon, machine, peer, report
from benchmarks.peers import Figures, step_losses
from smolora import Client, TrainProgress

ORIGINAL = ("--dtype", "float32", "--batch", 1, "--accumulate", 8, "--checkpointing")
TUNED = ("--dtype", "bfloat16", "--batch", 8, "--accumulate", 1)
TUNED_SINGLE = ("--dtype", "bfloat16", "--batch", 1, "--accumulate", 8)
PACKED = ("--dtype", "bfloat16", "--batch", 1, "--accumulate", 8, "--packing")
VISITED_STEPS = 60  # of verses, some 25 s
LONG_ROW_CHARACTERS = 3_000  # 500 to 1,000 tokens of English


def project(client: Client, served: Daemon, dataset: str, steps: int) -> Figures:
    """One training job, from its events."""
    seconds, tokens, losses = 0.0, 0, []
    begin, first = time.perf_counter(), 0.0
    settings: Any = {"max_steps": steps, "lora_dropout": 0.0, "logging_steps": 1, "save_steps": 10_000, "save_seconds": 0}
    run = client.train(dataset, "bench", trainer="fast", **settings)
    for event in run:
        if isinstance(event.body, TrainProgress):
            took = (event.body.tokens - tokens) / event.body.tokens_per_second
            first = first or time.perf_counter() - begin - took
            seconds, tokens = seconds + took, event.body.tokens
            losses.append(event.body.loss)
    run.result()
    return {
        "train_tok_s": tokens / seconds,
        "first_step_begins_s": first,
        "peak_rss_bytes": _peak_rss(client.status().engine_pid),
    } | step_losses(losses)


def _peak_rss(pid: int) -> float:
    """The engine's peak; where the system does not show it of others, its memory now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return float(psutil.Process(pid).memory_info().rss)


def joined(rows: Sequence[str]) -> Iterator[str]:
    """Neighbouring texts as long ones."""
    text = ""
    for row in rows:
        text = f"{text} {row}".strip()
        if len(text) >= LONG_ROW_CHARACTERS:
            yield text
            text = ""


def largest_deviation(result: Result, ours: str, theirs: str, steps: int) -> float | None:
    """Of any step's loss, relative to theirs."""
    pairs = [(result.median(ours, f"loss_{step}"), result.median(theirs, f"loss_{step}")) for step in range(1, steps + 1)]
    return max((abs(one - other) / other for one, other in pairs if one and other), default=None)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=REPOSITORY / "examples" / "data" / "lighthouse", help="a folder of texts, or a JSONL file"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps a round; default: 6, quick: 2")
    parser.add_argument("--long", action="store_true", help="long rows besides, 500 to 1,000 tokens each: many minutes")


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
        report(f"{resident.name} in {resident.dtype}, {dataset.train_rows} rows, {dataset.report.tokens} tokens")
        contenders: dict[str, Callable[[], Figures]] = {"project": lambda: project(client, served, "bench", steps)}
        peers = {"trl_original": ORIGINAL, "trl_tuned": TUNED, "trl_tuned_single": TUNED_SINGLE}
        _add(stack, contenders, bench, dataset.path, steps, peers)
        asked = 6 if bench.quick else VISITED_STEPS
        contenders["project_asked"] = lambda: (
            company.idle(client)
            | company.busy(client, served, "bench", asked)
            | ({} if bench.quick else company.slowed(client, served, "bench", asked))
        )
        if bench.given.long:
            texts = served.root / "long.jsonl"
            rows = datasets.load_from_disk(dataset.path)["train"]["text"]
            texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in joined(rows)), encoding="utf-8")
            long = client.prepare("bench-long", texts, validation=0.0).result()
            contenders["project_long"] = lambda: project(client, served, "bench-long", 1)
            contenders["project_long_asked"] = lambda: company.busy(client, served, "bench-long", 2)
            peers = {"trl_long_tuned": TUNED, "trl_long_tuned_single": TUNED_SINGLE, "trl_long_packed": PACKED}
            _add(stack, contenders, bench, long.path, 1, peers)
        result.run(contenders)
    speed = result.median("project", "train_tok_s")
    peak = machine(bench.threads)["bf16_gflop_s"] * 1e9
    ratios = {
        "train_vs_trl_original": result.ratio(("project", "train_tok_s"), ("trl_original", "train_tok_s")),
        "train_vs_trl_tuned": _least(result, "project", ("trl_tuned", "trl_tuned_single")),
        "train_long_vs_trl_tuned": _least(
            result, "project_long", ("trl_long_tuned", "trl_long_tuned_single", "trl_long_packed")
        ),
        "memory_vs_trl_tuned": result.ratio(("trl_tuned", "peak_rss_bytes"), ("project", "peak_rss_bytes")),
    }
    facts = {
        "dtype": str(resident.dtype),
        "rows": dataset.train_rows,
        "steps": steps,
        # A frozen weight takes two operations a token forward, two backward.
        "share_of_gemm_peak": round(4 * resident.parameters * speed / peak, 3) if speed else None,
        "largest_loss_deviation_from_original": largest_deviation(result, "project", "trl_original", steps),
        "largest_loss_deviation_from_tuned": largest_deviation(result, "project", "trl_tuned", steps),
    }
    print(result.line(ratios, **facts))


def _add(
    stack: contextlib.ExitStack,
    contenders: dict[str, Callable[[], Figures]],
    bench: Bench,
    path: object,
    steps: int,
    peers: dict[str, tuple[object, ...]],
) -> None:
    for name, settings in peers.items():
        common = (bench.model, path, "--steps", steps, "--threads", bench.threads)
        contenders[name] = stack.enter_context(peer("trl_train", *common, *settings))


def _least(result: Result, ours: str, theirs: tuple[str, ...]) -> float | None:
    """Against the fastest of several."""
    found = [result.ratio((ours, "train_tok_s"), (name, "train_tok_s")) for name in theirs]
    return min((ratio for ratio in found if ratio), default=None)


if __name__ == "__main__":
    main()
