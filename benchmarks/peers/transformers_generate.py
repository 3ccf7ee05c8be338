"""Peer: `transformers.generate`, greedy, on the same folder and prompt."""

from __future__ import annotations

import argparse
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers import Figures, serve


def main() -> None:
    """Serves decode and prefill figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--long-prompt", required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": given.prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    long = tokenizer(given.long_prompt, return_tensors="pt")

    def seconds(inputs: dict[str, torch.Tensor], tokens: int) -> float:
        begin = time.perf_counter()
        model.generate(
            **inputs, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=tokenizer.eos_token_id
        )
        return time.perf_counter() - begin

    def measure() -> Figures:
        first = seconds(chat, 1)
        whole = seconds(chat, given.new_tokens)
        return {
            "decode_tok_s": (given.new_tokens - 1) / (whole - first),
            "first_token_s": first,
            "prefill_tok_s": long["input_ids"].shape[1] / seconds(long, 1),
        }

    seconds(chat, 8)
    serve(measure)


if __name__ == "__main__":
    main()
