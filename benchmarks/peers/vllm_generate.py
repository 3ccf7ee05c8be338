"""Peer: vLLM for processors in bfloat16, in an environment of its own: many streams at once."""

from __future__ import annotations

import os
import time
from typing import Any

from benchmarks.peers import missing
from benchmarks.peers.generation import arguments, read_task, serve_task

GIB_OF_KV_CACHE = 1  # it is all taken at the start, and counts in its memory


class Vllm:
    """vLLM's offline class."""

    def __init__(self, vllm: Any, folder: str, tokens: int) -> None:
        self._vllm = vllm
        self._engine = vllm.LLM(
            folder, dtype="bfloat16", enforce_eager=True, max_model_len=tokens, disable_log_stats=True, skip_tokenizer_init=True
        )

    def _run(self, prompts: list[list[int]], tokens: int) -> None:
        settings = self._vllm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        self._engine.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)

    def generate(self, ids: list[int], tokens: int, *, keep: bool = False) -> list[float]:
        """When each token came: the first by a generation of its own, the others evenly spread over the rest."""
        begin = time.perf_counter()
        self._run([ids], 1)
        first = time.perf_counter()
        if tokens == 1:
            return [first]
        self._run([ids], tokens)  # its prefix cache has the prompt by now, so that this has hardly any prefill
        step = (time.perf_counter() - first) / tokens
        return [first + step * number for number in range(tokens)] if begin < first else []

    def streams(self, prompts: list[list[int]], tokens: int) -> None:
        """All at once."""
        self._run(prompts, tokens)


def main() -> None:
    """Serves the task's figures, or says what is not there."""
    given = arguments()
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": str(GIB_OF_KV_CACHE)}
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": f"0-{given.threads - 1}", "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        import vllm
    except ImportError as error:
        missing(f"vllm-cpu cannot be imported in this environment: {error}")
    task = read_task(given.task)
    try:
        engine = Vllm(vllm, str(given.model), task["context_length"])
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        missing(f"vLLM does not load this model: {error}")
    serve_task(engine, task)


if __name__ == "__main__":
    main()
