"""Preparing a dataset: megabytes of JSONL a second, from the file to tokens ready for training.

The project's worker reads, checks, compares, splits, tokenises and reports; TRL's own preparation and a batched map read and
tokenise; the original design's functions read and compare. All are warm processes of their own, on the same file, in turn, with
as many threads for the tokenizer. Besides: the same as a job through the daemon, how fast unchanged files are answered, how
fast a cancel ends the work; and with `--large MB` a corpus of that size made of the file's rows, with the memory it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import time
from pathlib import Path

from benchmarks.harness import REPOSITORY, Bench, Daemon, PeerMissing, Result, daemon, peer, report
from benchmarks.peers import Figures
from smolora import Cancelled, Client, PhaseProgress

PEERS = {"trl": "trl", "batched_map": "map", "original": "original"}
_REPEATS = 8


def job(client: Client, data: Path) -> Figures:
    """A preparation through the daemon, upload and all, and the same again."""
    begin = time.perf_counter()
    client.prepare("bench", data, validation=0.0).result()
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    client.prepare("bench", data, validation=0.0).result()
    again = time.perf_counter() - begin
    client.delete_dataset("bench")
    return {"job_mb_s": data.stat().st_size / 1e6 / first, "unchanged_s": again, "cancelled_s": _cancel(client, data)}


def _cancel(client: Client, data: Path) -> float:
    """Seconds from asking for the end of a preparation to its end."""
    run = client.prepare("cancelled", data)
    for event in run:
        if isinstance(event.body, PhaseProgress):
            break
    begin = time.perf_counter()
    client.cancel(run.job_id)
    with contextlib.suppress(Cancelled):
        run.result()
    return time.perf_counter() - begin


def corpus(data: Path, path: Path, megabytes: int) -> None:
    """Writes rows of three rows of `data`, drawn with a seed, no two alike, until they have the given megabytes."""
    texts = [json.loads(line)["text"] for line in data.read_text(encoding="utf-8").splitlines()]
    draw, written = random.Random(0), 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            written += file.write("".join(json.dumps({"text": " ".join(draw.sample(texts, 3))}) + "\n" for _ in range(1000)))


def lighthouse(folder: Path) -> Path:
    """The example's log as one JSONL file, a few times over, each row with its own number."""
    lines = [line for file in sorted((REPOSITORY / "examples/data/lighthouse").glob("*.txt")) for line in _lines(file)]
    path = folder / "lighthouse.jsonl"
    rows = (f"Entry {n}. {line}" for n in range(_REPEATS) for line in lines)
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return path


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="a JSONL file with the field `text`; default: the example's log, 8 times")
    parser.add_argument("--large", type=int, metavar="MB", help="also a corpus of this size, made of that file's rows")


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("dataset", _arguments, rounds=3)
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(bench.threads)}
    result = Result(bench)
    with contextlib.ExitStack() as stack:
        served: Daemon = stack.enter_context(daemon())
        client = stack.enter_context(served.client())
        client.load(bench.model, keep_alive=-1).result()
        data = bench.given.data or lighthouse(served.root)
        contenders = {
            "project": stack.enter_context(peer("prepare_corpus", bench.model, data)),
            "job": lambda: job(client, data),
        }
        for name, way in PEERS.items():
            try:
                contenders[name] = stack.enter_context(peer("prepare_dataset", way, bench.model, data))
            except PeerMissing as error:
                result.reasons[name] = str(error)
        megabytes = round(data.stat().st_size / 1e6, 2)
        result.run(contenders)
        if bench.given.large:
            path = served.root / "large.jsonl"
            report(f"writing {bench.given.large:,} MB")
            corpus(data, path, bench.given.large)
            with peer("prepare_corpus", bench.model, path) as measure:
                result.add("project_large", measure())
    ratios = {
        "prep_vs_trl": result.ratio(("project", "mb_s"), ("trl", "mb_s")),
        "prep_vs_batched_map": result.ratio(("project", "mb_s"), ("batched_map", "mb_s")),
        "prep_vs_original": result.ratio(("project", "mb_s"), ("original", "mb_s")),
    }
    print(result.line(ratios, megabytes=megabytes))


if __name__ == "__main__":
    main()
