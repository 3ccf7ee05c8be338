"""A training that is asked meanwhile: how long a first token takes then, and what the training loses by it."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

from benchmarks.harness import Daemon
from benchmarks.peers import Figures
from smolora import Client, TrainProgress

PROMPT = "The lighthouse keeper said"
IDLE_REQUESTS = 20
OFTEN_S, SELDOM_S = 0.4, 10.0  # from one request to the next
SELDOM_TOKENS = 32


def first_token_s(client: Client, tokens: int = 1) -> float:
    """Seconds from a request to its first text."""
    begin = time.perf_counter()
    generation = client.generate(PROMPT, max_tokens=tokens, temperature=0)
    next(iter(generation), None)
    took = time.perf_counter() - begin
    generation.text()
    return took


class Visitor:
    """Asks from time to time, from a thread and with a client of its own, for as long as it is entered."""

    def __init__(self, served: Daemon, every_s: float, tokens: int) -> None:
        self.waits: list[float] = []
        self._served, self._every_s, self._tokens = served, every_s, tokens
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with self._served.client() as client:
            while not self._over.wait(self._every_s):
                self.waits.append(first_token_s(client, self._tokens))


def seconds_a_token(client: Client, dataset: str, steps: int, visitor: Visitor | None = None) -> float:
    """Of a training, from the end of its first step to the end of its last; the visitor comes in between."""
    settings: Any = {"max_steps": steps, "lora_dropout": 0.0, "logging_steps": 1, "save_steps": 10_000, "save_seconds": 0}
    run = client.train(dataset, "visited", **settings)
    ends: list[tuple[float, int]] = []
    try:
        for event in run:
            if isinstance(event.body, TrainProgress):
                ends.append((time.perf_counter(), event.body.tokens))
                if visitor is not None and len(ends) == 1:
                    visitor.__enter__()
    finally:
        if visitor is not None and ends:
            visitor.__exit__()
    run.result()
    return (ends[-1][0] - ends[0][0]) / (ends[-1][1] - ends[0][1])


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else max(values, default=float("nan"))


def idle(client: Client) -> Figures:
    """First tokens while nothing is trained."""
    return {"first_token_idle_p95_s": p95([first_token_s(client) for _ in range(IDLE_REQUESTS)])}


def busy(client: Client, served: Daemon, dataset: str, steps: int) -> Figures:
    """First tokens while a training runs, asked for often."""
    visitor = Visitor(served, OFTEN_S, 1)
    seconds_a_token(client, dataset, steps, visitor)
    return {"first_token_training_p95_s": p95(visitor.waits), "first_tokens": float(len(visitor.waits))}


def slowed(client: Client, served: Daemon, dataset: str, steps: int) -> Figures:
    """What a training loses by a request every 10 s, as a share of its speed."""
    silent = seconds_a_token(client, dataset, steps)
    visited = seconds_a_token(client, dataset, steps, Visitor(served, SELDOM_S, SELDOM_TOKENS))
    return {"slowed_by_requests": visited / silent - 1}
