"""Peer: llama.cpp through llama-cpp-python, in an environment of its own, on the same weights in F16."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.peers import Figures, missing, serve


def main() -> None:
    """Serves decode and prefill figures, or says that llama-cpp-python is not there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    try:
        import llama_cpp
    except ImportError:
        missing("there is no llama-cpp-python in .venv-bench; .venv-bench/bin/pip install llama-cpp-python")

    with tempfile.TemporaryDirectory() as folder:
        f16 = Path(folder) / "f16.gguf"
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype, settings.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_F16, True
        llama_cpp.llama_model_quantize(given.gguf.encode(), str(f16).encode(), settings)
        model = llama_cpp.Llama(
            model_path=str(f16), n_ctx=2048, n_threads=given.threads, n_threads_batch=given.threads, n_batch=512, verbose=False
        )
    message = [{"role": "user", "content": given.prompt}]

    def measure() -> Figures:
        model.reset()
        begin, first, tokens = time.perf_counter(), 0.0, 0
        for chunk in model.create_chat_completion(message, max_tokens=given.new_tokens, temperature=0, stream=True):
            if "content" in chunk["choices"][0]["delta"]:
                tokens += 1
                first = first or time.perf_counter()
        decoding = time.perf_counter() - first
        model.reset()
        again = time.perf_counter()
        model.eval([(index * 7) % 40_000 + 100 for index in range(512)])
        return {
            "decode_tok_s": (tokens - 1) / decoding,
            "first_token_s": first - begin,
            "prefill_tok_s": 512 / (time.perf_counter() - again),
        }

    measure()
    serve(measure)


if __name__ == "__main__":
    main()
