"""Peer: llama.cpp through llama-cpp-python, in an environment of its own, on the same weights in one of its formats."""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from benchmarks.peers import Figures, missing, serve
from benchmarks.peers.texts import PROMPT, ending, shared_beginning

FORMATS = {"f16": "LLAMA_FTYPE_MOSTLY_F16", "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0"}


def main() -> None:
    """Serves decode, prefill and prefix figures, or says that llama-cpp-python is not there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    try:
        import llama_cpp
    except ImportError:
        missing("there is no llama-cpp-python in .venv-bench; .venv-bench/bin/pip install llama-cpp-python")

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.gguf"
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype, settings.allow_requantize = getattr(llama_cpp, FORMATS[given.format]), True
        llama_cpp.llama_model_quantize(given.gguf.encode(), str(made).encode(), settings)
        model = llama_cpp.Llama(
            model_path=str(made), n_ctx=2048, n_threads=given.threads, n_threads_batch=given.threads, n_batch=512, verbose=False
        )
    message = [{"role": "user", "content": PROMPT}]
    numbers = itertools.count()

    def first_token(text: str) -> float:
        begin = time.perf_counter()
        model.create_completion(text, max_tokens=1, temperature=0)  # the beginning that its last prompt shares is kept
        return time.perf_counter() - begin

    def measure() -> Figures:
        model.reset()
        begin, first, tokens = time.perf_counter(), 0.0, 0
        for chunk in model.create_chat_completion(message, max_tokens=given.new_tokens, temperature=0, stream=True):
            if "content" in chunk["choices"][0]["delta"]:
                tokens += 1
                first = first or time.perf_counter()
        decoding, begun = time.perf_counter() - first, first - begin
        model.reset()
        again = time.perf_counter()
        model.eval([(index * 7) % 40_000 + 100 for index in range(512)])
        prefill = 512 / (time.perf_counter() - again)
        model.reset()
        first_token(shared_beginning())
        return {
            "decode_tok_s": (tokens - 1) / decoding,
            "first_token_s": begun,
            "prefill_tok_s": prefill,
            "warm_prefix_s": first_token(shared_beginning() + ending(next(numbers))),
        }

    measure()
    serve(measure)


if __name__ == "__main__":
    main()
