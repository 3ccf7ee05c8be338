"""The project in one precision: a daemon of its own, asked what the peers are asked."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import REPOSITORY, Daemon
from benchmarks.peers import Figures
from benchmarks.peers.texts import PROMPT, ending, shared_beginning
from benchmarks.task import Task
from smolora import Client, GenerateOutcome, Precision, ResidentModel

SWITCHES = 8  # between adapters, and as many calls without one
# No pair of tokens comes twice, so that prompt lookup has nothing to guess: one step makes one token, as in the peers.
PLAIN: Mapping[str, Any] = {"no_repeat_ngram_size": 2}


def generated(client: Client, text: str, tokens: int, **more: Any) -> tuple[list[float], GenerateOutcome]:
    """One generation of exactly that many tokens: the time of the request, when each piece came, and its outcome."""
    times = [time.perf_counter()]
    generation = client.generate(text, max_tokens=tokens, min_tokens=tokens, temperature=0, **more)
    times += [time.perf_counter() for _ in generation]
    assert generation.outcome is not None
    return times, generation.outcome


def first_token_s(client: Client, prompt: str, adapter: str = "") -> float:
    """Seconds from the request to the answer of one token."""
    begin = time.perf_counter()
    client.generate(prompt, max_tokens=1, temperature=0, adapter=adapter).text()
    return time.perf_counter() - begin


def rate(outcome: GenerateOutcome) -> float:
    """Tokens a second by the engine's clock."""
    return (outcome.usage.completion_tokens - 1) / outcome.timings.decode_s


def decode(client: Client, tokens: int) -> dict[str, float]:
    """One stream, by the client's clock and by the engine's; and as users have it, with prompt lookup."""
    times, outcome = generated(client, PROMPT, tokens, **PLAIN)
    return {
        "decode_tok_s": (outcome.usage.completion_tokens - 1) / (times[-1] - times[1]),
        "engine_decode_tok_s": rate(outcome),
        "first_token_s": times[1] - times[0],
        "tokens": outcome.usage.completion_tokens,
        "lookup_decode_tok_s": rate(generated(client, PROMPT, tokens)[1]),
    }


def prefill(client: Client, texts: Mapping[int, str], number: int) -> dict[str, float]:
    """Long prompts that begin as none before them."""
    figures = {}
    for length, text in texts.items():
        outcome = generated(client, f"{number} {text}", 1)[1]
        figures[f"prefill{length}_tok_s"] = outcome.usage.prompt_tokens / outcome.timings.prefill_s
    return figures


def streams(served: Daemon, texts: Mapping[int, list[str]], tokens: int) -> dict[str, float]:
    """Many generations at once, each with a client of its own."""

    def one(text: str) -> int:
        with served.client() as client:
            return generated(client, text, tokens, **PLAIN)[1].usage.completion_tokens

    figures = {}
    for count, prompts in texts.items():
        with ThreadPoolExecutor(count) as pool:
            begin = time.perf_counter()
            made = sum(pool.map(one, prompts))
            figures[f"streams{count}_tok_s"] = made / (time.perf_counter() - begin)
    return figures


def context(client: Client, texts: Mapping[int, str], tokens: int) -> dict[str, float]:
    """Decoding behind a long text; the text itself is in the prefix cache from the second time on."""
    return {f"context{length}_tok_s": rate(generated(client, text, tokens, **PLAIN)[1]) for length, text in texts.items()}


def prefix(client: Client, number: int) -> dict[str, float]:
    """A new end of a long text that was seen."""
    first_token_s(client, shared_beginning())
    return {"warm_prefix_s": first_token_s(client, shared_beginning() + ending(number))}


def adapters(client: Client, folder: Path, tokens: int) -> dict[str, float]:
    """Decoding with an adapter that is not merged; switching between two; one that is only on the disk."""
    names = [f"bench@{client.import_adapter(folder, 'bench').revision}" for _ in range(2)]
    fresh = [first_token_s(client, PROMPT, name) for name in names]
    same = [first_token_s(client, PROMPT, names[0]) for _ in range(SWITCHES)]
    switched = [first_token_s(client, PROMPT, names[at % 2]) for at in range(1, SWITCHES + 1)]
    times, outcome = generated(client, PROMPT, tokens, adapter=names[0], **PLAIN)
    return {
        "adapter_decode_tok_s": (outcome.usage.completion_tokens - 1) / (times[-1] - times[1]),
        "adapter_switch_s": statistics.median(switched) - statistics.median(same),
        "adapter_from_disk_s": statistics.median(fresh) - statistics.median(same),
    }


def trained_to_first_token_s(client: Client, rounds: int) -> float:
    """From the word that a training has ended to the first token of its adapter, the median."""
    client.prepare("bench", REPOSITORY / "examples" / "data", text_field="text", on_error="drop").result()

    def once() -> float:
        client.train("bench", "trained", max_steps=1, per_device_train_batch_size=1, max_length=64).result()
        return first_token_s(client, PROMPT, "trained")

    return statistics.median(once() for _ in range(rounds))


class Precise:
    """The daemon that generates in one precision; calling it measures once."""

    def __init__(self, served: Daemon, client: Client, resident: ResidentModel, task: Task, adapter: Path | None) -> None:
        self.resident = resident
        self._served, self._client, self._task, self._adapter = served, client, task, adapter
        self._numbers = itertools.count(1)
        generated(client, PROMPT, 4)
        status = client.status()
        self._rss_bytes = status.engine_rss_bytes + status.daemon_rss_bytes  # the daemon's own, too

    def __call__(self) -> Figures:
        """The figures of the parts that were asked for."""
        task, number = self._task, next(self._numbers)
        figures: dict[str, float] = {"rss_bytes": self._rss_bytes, "token_bytes": self.resident.token_bytes}
        if "decode" in task.only:
            figures |= decode(self._client, task.sizes.new_tokens)
        figures |= prefill(self._client, task.prefill, number)
        if "prefix" in task.only and self.resident.precision is Precision.EXACT:
            figures |= prefix(self._client, number)
        figures |= streams(self._served, task.streams, task.sizes.stream_tokens)
        figures |= context(self._client, task.context, task.sizes.context_tokens)
        if self._adapter is not None:
            figures |= adapters(self._client, self._adapter, task.sizes.new_tokens)
        return figures
