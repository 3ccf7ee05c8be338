"""Peer: transformers, greedy, on the same folder: `generate`, and `generate_batch` for many at once."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, DynamicCache, GenerationConfig

from benchmarks.peers.generation import arguments, read_task, serve_task

BLOCK, BATCH = 32, 512  # tokens of a block of the KV cache, and of a step


class Clock:
    """What `generate` hands its tokens to: notes when they come."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._prompt = True

    def put(self, value: Any) -> None:
        """The prompt comes first, then each token."""
        if not self._prompt:
            self.times.append(time.perf_counter())
        self._prompt = False

    def end(self) -> None:
        """All have come."""


class Transformers:
    """A model, and the KV cache of a prompt that comes again."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: tuple[list[int], DynamicCache] | None = None
        kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
        self._can_keep = set(kinds) == {"full_attention"}  # what has left a sliding window cannot be put back

    def generate(self, ids: list[int], tokens: int, *, keep: bool = False) -> list[float]:
        """When each token came."""
        clock = Clock()
        more: dict[str, Any] = {}
        if keep and self._can_keep:
            if self._kept is None or self._kept[0] != ids:
                self._kept = (ids, DynamicCache(config=self._model.config))
            cache = self._kept[1]
            if cache.get_seq_length() >= len(ids):
                cache.crop(len(ids) - 1)
            more["past_key_values"] = cache
        prompt = torch.tensor([ids])
        self._model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            pad_token_id=0,
            streamer=clock,
            **more,
        )
        return clock.times

    def streams(self, prompts: list[list[int]], tokens: int) -> None:
        """Its continuous batching, with a KV cache for these prompts alone: by itself it takes 60 % of the machine's memory."""
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        blocks = sum(-(-(len(ids) + tokens) // BLOCK) + 1 for ids in prompts)
        cache = ContinuousBatchingConfig(page_size=BLOCK, num_blocks=blocks, max_batch_tokens=BATCH)
        answers = self._model.generate_batch(
            inputs=prompts, generation_config=config, continuous_batching_config=cache, warmup=False
        )
        made = sum(len(answer.generated_tokens) for answer in answers.values())
        if made != tokens * len(prompts):
            raise SystemExit(f"generate_batch made {made} tokens, not {tokens * len(prompts)}")


def main() -> None:
    """Serves the task's figures."""
    given = arguments(lambda parser: parser.add_argument("--dtype", default="bfloat16"))
    torch.set_num_threads(given.threads)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
    serve_task(Transformers(model), read_task(given.task))


if __name__ == "__main__":
    main()
