"""llama.cpp's logits after every token of a text, in its own environment: GGUF TO, with a JSON list of ids on stdin."""

from __future__ import annotations

import argparse
import json
import sys


def main() -> None:
    """Writes an array (tokens, vocabulary) in FP32 as .npy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("to")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    import llama_cpp
    import numpy as np

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    ids = json.load(sys.stdin)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(given.model.encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = -(-len(ids) // 256) * 256
    settings.n_threads = settings.n_threads_batch = given.threads
    context = llama_cpp.llama_init_from_model(model, settings) if model else None
    if not context:
        raise SystemExit(f"llama.cpp could not read {given.model}")
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for at, token in enumerate(ids):
        batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, at, 1
        batch.seq_id[at][0], batch.logits[at] = 0, True
    if status := llama_cpp.llama_decode(context, batch):
        raise SystemExit(f"llama_decode ended with status {status}")
    np.save(given.to, np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(ids), vocabulary)))


if __name__ == "__main__":
    main()
