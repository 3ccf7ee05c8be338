"""Peer: llama.cpp through llama-cpp-python's bindings of its C functions, in an environment of its own, on a GGUF.

The bindings' own class copies the logits of every token in Python; this is what llama.cpp itself needs.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers import missing
from benchmarks.peers.generation import arguments, common_length, read_task, serve_task

BATCH = 512  # tokens of a prompt at once, as llama.cpp's own programs


class Context:
    """A context of llama.cpp: KV caches for some sequences, and a batch."""

    def __init__(self, llama: Any, model: Any, *, tokens: int, sequences: int, threads: int) -> None:
        settings = llama.llama_context_default_params()
        settings.n_ctx = -(-tokens // 256) * 256 * sequences
        settings.n_seq_max = sequences
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_threads = settings.n_threads_batch = threads
        settings.swa_full = False  # as llama.cpp's own programs: local layers keep their window alone
        self._llama = llama
        self._context = llama.llama_init_from_model(model, settings)
        if not self._context:
            raise SystemExit("llama.cpp made no context")
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(BATCH, 0, 1)
        self._vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def close(self) -> None:
        """Gives its memory back."""
        self._llama.llama_batch_free(self._batch)
        self._llama.llama_free(self._context)

    def keep(self, length: int) -> bool:
        """Forgets what follows the first tokens of sequence 0; everything where that cannot be done."""
        if length and self._llama.llama_memory_seq_rm(self._memory, 0, length, -1):
            return True
        self._llama.llama_memory_clear(self._memory, True)
        return False

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Computes (token, position, sequence, whether its logits are needed) and chooses the likeliest token for those."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for at, (token, position, sequence, scored) in enumerate(rows):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
            batch.seq_id[at][0], batch.logits[at] = sequence, scored
        if status := self._llama.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode ended with status {status}")
        return [self._likeliest(at) for at, row in enumerate(rows) if row[3]]

    def _likeliest(self, at: int) -> int:
        import numpy as np

        logits = self._llama.llama_get_logits_ith(self._context, at)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())


class LlamaCpp:
    """One sequence whose KV cache is kept, and contexts for many on demand."""

    def __init__(self, llama: Any, path: str, tokens: int, threads: int) -> None:
        llama.llama_backend_init()
        self._llama, self._threads = llama, threads
        self._model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp could not read {path}")
        self._single = Context(llama, self._model, tokens=tokens, sequences=1, threads=threads)
        self._computed: list[int] = []
        self.chosen: list[int] = []  # by the last generation

    def generate(self, ids: list[int], tokens: int, *, keep: bool = False) -> list[float]:
        """When each token came. What the last text began with is always kept."""
        shared = min(common_length(self._computed, ids), len(ids) - 1)
        at = shared if self._single.keep(shared) else 0
        while at < len(ids):
            part = ids[at : at + BATCH]
            made = self._single.decode([(token, at + index, 0, at + index == len(ids) - 1) for index, token in enumerate(part)])
            at += len(part)
        times, self.chosen = [time.perf_counter()], made
        while len(times) < tokens:
            self.chosen += self._single.decode([(self.chosen[-1], len(ids) + len(times) - 1, 0, True)])
            times.append(time.perf_counter())
        self._computed = ids + self.chosen[:-1]
        return times

    def streams(self, prompts: list[list[int]], tokens: int) -> None:
        """All at once: prompts together in batches, then a token of each in each step."""
        longest = max(map(len, prompts)) + tokens
        context = Context(self._llama, self._model, tokens=longest, sequences=len(prompts), threads=self._threads)
        rows = [
            (token, position, sequence, position == len(ids) - 1)
            for sequence, ids in enumerate(prompts)
            for position, token in enumerate(ids)
        ]
        last = [made for at in range(0, len(rows), BATCH) for made in context.decode(rows[at : at + BATCH])]
        for step in range(tokens - 1):
            last = context.decode(
                [(token, len(prompts[sequence]) + step, sequence, True) for sequence, token in enumerate(last)]
            )
        context.close()


def main() -> None:
    """Serves the task's figures, or says that llama-cpp-python is not there."""
    given = arguments(lambda parser: parser.add_argument("--print", type=int, metavar="TOKENS", help="print ids, and end"))
    try:
        import llama_cpp
    except ImportError:
        missing("there is no llama-cpp-python in this environment")
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    task = read_task(given.task)
    engine = LlamaCpp(llama_cpp, str(given.model), task["context_length"], given.threads)
    if given.print:
        engine.generate(task["prompt"], given.print)
        print(engine.chosen)
        return
    serve_task(engine, task)


if __name__ == "__main__":
    main()
