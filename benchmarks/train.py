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
from transformers import AutoTokenizer

from benchmarks import company
from benchmarks.harness import REPOSITORY, Bench, Daemon, Result, daemon, list_of, machine, peer, report
from benchmarks.peers import Figures, step_losses
from smolora import Client, TrainProgress

ORIGINAL = ("--dtype", "float32", "--batch", 1, "--accumulate", 8, "--checkpointing")
TUNED = ("--dtype", "bfloat16", "--batch", 8, "--accumulate", 1)
TUNED_SINGLE = ("--dtype", "bfloat16", "--batch", 1, "--accumulate", 8)
TUNED_FLOAT32 = ("--dtype", "float32", "--batch", 8, "--accumulate", 1)  # processors without bfloat16 are faster so
GROUPED = (*TUNED, "--grouped")  # least padding; other rows in a step, so its losses are not comparable
PACKED = ("--dtype", "bfloat16", "--batch", 1, "--accumulate", 8, "--packing")
TUNED_WAYS = {
    "trl_tuned": TUNED,
    "trl_tuned_single": TUNED_SINGLE,
    "trl_tuned_grouped": GROUPED,
    "trl_tuned_float32": TUNED_FLOAT32,
}
PEERS: dict[str, tuple[object, ...]] = {"trl_original": ORIGINAL, **TUNED_WAYS}
LONG_PEERS = {"trl_long_tuned": TUNED, "trl_long_tuned_single": TUNED_SINGLE, "trl_long_packed": PACKED}
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
    parser.add_argument(
        "--row-tokens",
        type=lambda text: tuple(map(int, text.split(","))),
        default=(),
        metavar="LIST",
        help="rows of about these numbers of tokens besides, as 40,512",
    )
    parser.add_argument("--peers", type=list_of(tuple(PEERS)), default=(), help=f"of {','.join(PEERS)}; default: all")
    parser.add_argument("--no-company", action="store_true", help="leave out what a training and requests cost each other")


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
        _add(stack, contenders, bench, dataset.path, steps, _wanted(bench, PEERS))
        if not bench.given.no_company:
            contenders["project_asked"] = lambda: _asked(bench, client, served)
        if bench.given.long:
            _add_long(stack, contenders, bench, client, served, dataset.path)
        texts: list[str] = datasets.load_from_disk(dataset.path)["train"]["text"]
        for length in bench.given.row_tokens:
            _add_rows(stack, contenders, bench, client, served, texts, length, steps)
        result.run(contenders)
    speed = result.median("project", "train_tok_s")
    peak = machine(bench.threads)["bf16_gflop_s"] * 1e9
    facts = {
        "dtype": str(resident.dtype),
        "rows": dataset.train_rows,
        "steps": steps,
        # A frozen weight takes two operations a token forward, two backward.
        "share_of_gemm_peak": round(4 * resident.parameters * speed / peak, 3) if speed else None,
        "largest_loss_deviation_from_original": largest_deviation(result, "project", "trl_original", steps),
        "largest_loss_deviation_from_tuned": largest_deviation(result, "project", "trl_tuned", steps),
    }
    print(result.line(ratios(result, bench.given.row_tokens), **facts))


def ratios(result: Result, lengths: Sequence[int]) -> dict[str, float | None]:
    """More is better in each; against the fastest of the ways to set TRL, and the leanest."""
    tuned = tuple(TUNED_WAYS)
    found = {
        "train_vs_trl_original": result.ratio(("project", "train_tok_s"), ("trl_original", "train_tok_s")),
        "train_vs_trl_tuned": _least(result, "project", tuned),
        "train_long_vs_trl_tuned": _least(result, "project_long", tuple(LONG_PEERS)),
        "memory_vs_trl_tuned": result.ratio(("trl_tuned", "peak_rss_bytes"), ("project", "peak_rss_bytes")),
    }
    for length in lengths:
        theirs = tuple(f"{name}_{length}" for name in tuned)
        found[f"train_rows{length}_vs_trl_tuned"] = _least(result, f"project_rows{length}", theirs)
        memory = [result.ratio((name, "peak_rss_bytes"), (f"project_rows{length}", "peak_rss_bytes")) for name in theirs]
        found[f"memory_rows{length}_vs_trl_tuned"] = min((ratio for ratio in memory if ratio), default=None)
    return found


def _asked(bench: Bench, client: Client, served: Daemon) -> Figures:
    asked = 6 if bench.quick else VISITED_STEPS
    figures = {**company.idle(client), **company.busy(client, served, "bench", asked)}
    return figures if bench.quick else figures | company.slowed(client, served, "bench", asked)


def _wanted(bench: Bench, peers: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    names = bench.given.peers
    return {name: settings for name, settings in peers.items() if not names or name in names}


def _add_long(
    stack: contextlib.ExitStack,
    contenders: dict[str, Callable[[], Figures]],
    bench: Bench,
    client: Client,
    served: Daemon,
    short: str,
) -> None:
    rows = joined(datasets.load_from_disk(short)["train"]["text"])
    long = _prepared(client, served, "bench-long", rows)
    contenders["project_long"] = lambda: project(client, served, "bench-long", 1)
    contenders["project_long_asked"] = lambda: company.busy(client, served, "bench-long", 2)
    _add(stack, contenders, bench, long, 1, LONG_PEERS)


def _add_rows(
    stack: contextlib.ExitStack,
    contenders: dict[str, Callable[[], Figures]],
    bench: Bench,
    client: Client,
    served: Daemon,
    texts: Sequence[str],
    length: int,
    steps: int,
) -> None:
    """Rows of one length: the project, and TRL tuned, in each of its ways."""
    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    name = f"bench-{length}"
    path = _prepared(client, served, name, of_length(texts, length, 8 * steps, tokenizer))
    contenders[f"project_rows{length}"] = lambda: project(client, served, name, steps)
    peers = {f"{peer}_{length}": settings for peer, settings in _wanted(bench, PEERS).items() if peer != "trl_original"}
    _add(stack, contenders, bench, path, steps, peers)


def of_length(texts: Sequence[str], length: int, rows: int, tokenizer: Any) -> Iterator[str]:
    """That many texts of about `length` tokens, cut out of all texts, each with its own number."""
    ids: list[int] = tokenizer(" ".join(texts), add_special_tokens=False)["input_ids"]
    for row in range(rows):
        number = f"{row}. "
        begin = row * length % max(1, len(ids) - length)
        yield number + tokenizer.decode(ids[begin : begin + length - len(tokenizer(number)["input_ids"])])


def _prepared(client: Client, served: Daemon, name: str, rows: Iterator[str]) -> str:
    """The folder of a dataset of these texts."""
    texts = served.root / f"{name}.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    return str(client.prepare(name, texts, validation=0.0).result().path)


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
