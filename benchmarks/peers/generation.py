"""What each generating peer is asked: token ids from a task file, greedy, without an end before the last token."""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers import serve

WARM_UP_TOKENS = 4


class Engine(Protocol):
    """A peer's model, ready."""

    def generate(self, ids: list[int], tokens: int, *, keep: bool = False) -> Sequence[float]:
        """When each token came, by `time.perf_counter`. `keep`: the prompt comes again, and its KV cache may be kept."""

    def streams(self, prompts: list[list[int]], tokens: int) -> None:
        """All prompts at once, `tokens` for each."""


def arguments(add: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """What every generating peer is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("task", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    if add is not None:
        add(parser)
    return parser.parse_args()


def read_task(path: Path) -> Mapping[str, Any]:
    """The task file; see benchmarks/task.py."""
    task: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return task


def fresh(ids: list[int], number: int) -> list[int]:
    """The same length with another beginning, so that nothing that was computed before helps."""
    return [ids[0], ids[2 + number % (len(ids) - 2)], *ids[2:]]


def rss_bytes() -> float:
    """This process's memory now; where the system does not say so, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return float(statm.read_text().split()[1]) * resource.getpagesize()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def serve_task(engine: Engine, task: Mapping[str, Any]) -> None:
    """Warms up, then serves the figures that the task asks for."""
    engine.generate(task["prompt"], WARM_UP_TOKENS)
    memory = rss_bytes()
    numbers = itertools.count()
    serve(lambda: _measure(engine, task, next(numbers)) | {"rss_bytes": memory})


def _measure(engine: Engine, task: Mapping[str, Any], number: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    if tokens := task.get("new_tokens"):
        begin = time.perf_counter()
        times = engine.generate(task["prompt"], tokens)
        figures |= {"decode_tok_s": _rate(times), "first_token_s": times[0] - begin, "tokens": len(times)}
    for length, ids in task.get("prefill", {}).items():
        figures[f"prefill{length}_tok_s"] = len(ids) / _first(engine, fresh(ids, number))
    if warm := task.get("prefix"):
        engine.generate(warm["beginning"], 1, keep=True)
        figures["warm_prefix_s"] = _first(engine, warm["beginning"] + fresh(warm["ending"], number))
    for streams, prompts in task.get("streams", {}).items():
        begin = time.perf_counter()
        engine.streams(prompts, task["stream_tokens"])
        figures[f"streams{streams}_tok_s"] = len(prompts) * task["stream_tokens"] / (time.perf_counter() - begin)
    for length, ids in task.get("context", {}).items():
        figures[f"context{length}_tok_s"] = _rate(engine.generate(ids, task["context_tokens"], keep=True))
    return figures


def _first(engine: Engine, ids: list[int]) -> float:
    begin = time.perf_counter()
    return engine.generate(ids, 1)[0] - begin


def _rate(times: Sequence[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])


def common_length(one: Iterable[int], other: Iterable[int]) -> int:
    """How many tokens two texts share from the beginning."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
