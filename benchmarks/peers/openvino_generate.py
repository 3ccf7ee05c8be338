"""Peer: OpenVINO GenAI on a GGUF, in an environment of its own."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers import missing
from benchmarks.peers.generation import arguments, read_task, serve_task


class OpenVino:
    """A pipeline of OpenVINO GenAI; its scheduler keeps the KV caches of prompts."""

    def __init__(self, genai: Any, path: str, threads: int, tokens: int) -> None:
        self._genai = genai
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = tokens
        self._pipeline = genai.LLMPipeline(path, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads)

    def _settings(self, tokens: int) -> Any:
        return self._genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)

    def generate(self, ids: list[int], tokens: int, *, keep: bool = False) -> list[float]:
        """When each token came."""
        times: list[float] = []

        def came(piece: Any) -> Any:
            times.extend([time.perf_counter()] * (len(piece) if isinstance(piece, list) else 1))
            return self._genai.StreamingStatus.RUNNING

        class Clock(self._genai.StreamerBase):  # type: ignore[misc, name-defined]
            """Notes when tokens come, without spelling them."""

            def write(self, piece: Any) -> Any:
                return came(piece)

            def end(self) -> None:
                """All have come."""

        self._pipeline.generate(self._inputs([ids]), self._settings(tokens), Clock())
        return times

    def streams(self, prompts: list[list[int]], tokens: int) -> None:
        """As one batch."""
        self._pipeline.generate(self._inputs(prompts), self._settings(tokens))

    def _inputs(self, prompts: list[list[int]]) -> Any:
        """Prompts padded on the left."""
        import numpy as np
        import openvino

        width = max(map(len, prompts))
        ids = np.zeros((len(prompts), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
        return self._genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(mask))


def main() -> None:
    """Serves the task's figures, or says what is not there."""
    given = arguments()
    try:
        import openvino_genai
    except ImportError:
        missing("there is no openvino-genai in this environment")
    task = read_task(given.task)
    try:
        engine = OpenVino(openvino_genai, str(given.model), given.threads, task["context_length"])
    except RuntimeError as error:
        missing(f"OpenVINO GenAI does not read this GGUF: {str(error).strip().splitlines()[-1]}")
    serve_task(engine, task)


if __name__ == "__main__":
    main()
