"""What is asked in one run of the decode benchmark: texts for the project, and the same texts as token ids for the peers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.texts import PROMPT, ending, long_text, question, shared_beginning

PARTS = ("decode", "prefill", "streams", "context", "memory", "prefix", "adapters", "start", "quality")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each; `quick` is a rough answer."""

    new_tokens: int = 128
    stream_tokens: int = 64
    context_tokens: int = 32
    prefill: tuple[int, ...] = (512, 4096)
    streams: tuple[int, ...] = (8, 32)
    context: tuple[int, ...] = (8192,)


QUICK = Sizes(new_tokens=48, stream_tokens=24, context_tokens=8, prefill=(512,), streams=(8,), context=(1024,))
TINY = Sizes(new_tokens=6, stream_tokens=3, context_tokens=3, prefill=(64,), streams=(2,), context=(128,))


@dataclass(frozen=True, slots=True)
class Task:
    """Texts by part and size; a part that was not asked for is empty."""

    only: frozenset[str]
    sizes: Sizes
    prefill: dict[int, str]
    context: dict[int, str]
    streams: dict[int, list[str]]

    def write(self, encode: Callable[[str], list[int]], to: Path) -> Path:
        """The task file for the peers."""
        content: dict[str, Any] = {
            "prompt": encode(PROMPT),
            "new_tokens": self.sizes.new_tokens if "decode" in self.only else 0,
            "prefill": {length: encode(text) for length, text in self.prefill.items()},
            "context": {length: encode(text) for length, text in self.context.items()},
            "streams": {count: [encode(text) for text in texts] for count, texts in self.streams.items()},
            "stream_tokens": self.sizes.stream_tokens,
            "context_tokens": self.sizes.context_tokens,
        }
        if "prefix" in self.only:
            content["prefix"] = {"beginning": encode(shared_beginning()), "ending": encode(ending(0))[1:]}
        texts = [content["prompt"], *content["prefill"].values(), *content["context"].values()]
        texts += [content["prefix"]["beginning"] + content["prefix"]["ending"]] if "prefix" in content else []
        content["context_length"] = max(map(len, texts)) + max(self.sizes.new_tokens, self.sizes.context_tokens)
        to.write_text(json.dumps(content), encoding="utf-8")
        return to


def make_task(only: frozenset[str], sizes: Sizes, encode: Callable[[str], list[int]], context_length: int) -> Task:
    """The texts of the parts that were asked for, as far as the model's context has room for them."""

    def fitted(lengths: tuple[int, ...], room: int) -> dict[int, str]:
        return {length: _text_of(min(length, context_length - room), encode) for length in lengths if length <= context_length}

    return Task(
        only,
        sizes,
        fitted(sizes.prefill, 1) if "prefill" in only else {},
        fitted(sizes.context, sizes.context_tokens) if "context" in only else {},
        {count: [question(number) for number in range(count)] for count in sizes.streams} if "streams" in only else {},
    )


def _text_of(length: int, encode: Callable[[str], list[int]]) -> str:
    """A text of at most `length` tokens, and at least that less one line."""
    lines = 1
    while len(encode(long_text(lines * 2))) <= length:
        lines *= 2
    step = lines
    while step := step // 2:
        if len(encode(long_text(lines + step))) <= length:
            lines += step
    return long_text(lines)
