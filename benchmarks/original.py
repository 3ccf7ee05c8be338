"""The original's whole job (train, save, load, five inferences): a plain script as it was, against the class on a daemon.

The class does it twice: on a daemon that has just been started, and again, as a user does who keeps working. Each job is a
process of its own, timed from its exec to its end; the first one's start of the daemon counts. Memory is the largest sum of the
resident memory of all processes at work, the daemon's too, looked at five times a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.harness import REPOSITORY, Bench, Result, daemon, report
from benchmarks.peers import Figures
from benchmarks.peers.original_script import INFERENCES

PROMPT = "Write a glowing review of a visit to a spa."
_LOOK_EVERY_S = 0.2


class Peak:
    """The largest resident memory of processes and their descendants, together, since it was last taken."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._most = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def take(self) -> float:
        """The peak in bytes; from now on the next one counts."""
        most, self._most = self._most, 0.0
        return most

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            self._most = max(self._most, sum(map(_rss, self._pids)))


def _rss(pid: int) -> float:
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def job(
    bench: Bench, module: str, output: Path, *, environ: dict[str, str] | None = None, beside: Sequence[int] = ()
) -> Figures:
    """Runs a job's script; seconds and peak memory of each phase, and of the whole. `beside` are processes that work for it."""
    steps, tokens = bench.given.steps, bench.given.new_tokens
    arguments = [bench.model, bench.given.data, output, "--steps", steps, "--prompt", PROMPT, "--new-tokens", tokens]
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--threads", bench.threads]
    figures: dict[str, float] = {}
    began = at = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=REPOSITORY,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process, Peak([process.pid, *beside]) as peak:
        for phase in _phases(process):
            now = time.perf_counter()
            figures |= {f"{phase}_s": now - at, f"{phase}_peak_bytes": peak.take()}
            at = now
    if process.returncode:
        raise SystemExit(f"{module} ended with status {process.returncode}; run it by hand to see why: {command}")
    figures["job_s"] = time.perf_counter() - began
    figures["job_peak_bytes"] = max(value for name, value in figures.items() if name.endswith("_peak_bytes"))
    return figures


def _phases(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("done "):
            yield line.split()[1]


def project(bench: Bench, root: Path) -> tuple[Figures, Figures]:
    """The first job on a fresh daemon, and the second one."""
    with daemon() as served:
        beside = [served.process.pid]
        first = dict(job(bench, "class_script", root / "class", environ=served.environ, beside=beside))
        second = job(bench, "class_script", root / "class", environ=served.environ, beside=beside)
    for name in ("initialisation_s", "job_s"):
        first[name] += served.serving_s
    return first, {**second, "one_inference_s": second["inference_s"] / INFERENCES}


def cold_inference(bench: Bench, merged: Path) -> Figures:
    """One inference by a plain script in fp32, from its exec to its end."""
    arguments = [merged, "--dtype", "float32", "--prompt", PROMPT, "--new-tokens", bench.given.new_tokens]
    command = [sys.executable, "-m", "benchmarks.peers.cold_script", *arguments, "--threads", bench.threads]
    began = time.perf_counter()
    subprocess.run([str(word) for word in command], cwd=REPOSITORY, capture_output=True, check=True)
    return {"one_inference_s": time.perf_counter() - began}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=REPOSITORY / "examples" / "data" / "lighthouse", help="a folder of .txt files"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps of the job; default: 20, quick: 1")
    parser.add_argument("--new-tokens", type=int, help="tokens of each inference; default: 32, quick: 4")


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("original", _arguments, rounds=3)
    bench.given.steps = bench.given.steps or (1 if bench.quick else 20)
    bench.given.new_tokens = bench.given.new_tokens or (4 if bench.quick else 32)
    os.environ["PYTHONWARNINGS"] = "ignore"
    result = Result(bench)
    for number in range(bench.rounds):
        report(f"round {number + 1} of {bench.rounds}")
        with tempfile.TemporaryDirectory(prefix="smolora-bench-") as folder:
            root = Path(folder)
            first, second = project(bench, root)
            result.add("project", first)
            result.add("project_second", second)
            result.add("original", job(bench, "peers.original_script", root / "plain"))
            result.add("cold_script", cold_inference(bench, root / "plain" / "final_merged"))
    ratios = {
        "job_vs_original": result.ratio(("original", "job_s"), ("project", "job_s")),
        "second_job_vs_original": result.ratio(("original", "job_s"), ("project_second", "job_s")),
        "inference_vs_cold_script": result.ratio(("cold_script", "one_inference_s"), ("project_second", "one_inference_s")),
        "memory_vs_original": result.ratio(("original", "job_peak_bytes"), ("project", "job_peak_bytes")),
    }
    print(result.line(ratios, steps=bench.given.steps, new_tokens=bench.given.new_tokens))


if __name__ == "__main__":
    main()
