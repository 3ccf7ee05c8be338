"""Peer: transformers, greedy, on the same folder and prompts: `generate`, and `generate_batch` for eight at once."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from benchmarks.peers import Figures, serve
from benchmarks.peers.texts import EIGHT, PROMPT, ending, long_prompt, shared_beginning


def main() -> None:
    """Serves decode, prefill, prefix and batch figures, and its memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()

    def chat(text: str) -> Mapping[str, torch.Tensor]:
        message = [{"role": "user", "content": text}]
        inputs: Mapping[str, torch.Tensor] = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return inputs

    def seconds(inputs: Mapping[str, torch.Tensor], tokens: int) -> float:
        begin = time.perf_counter()
        model.generate(
            **inputs, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=tokenizer.eos_token_id
        )
        return time.perf_counter() - begin

    def batch(tokens: int) -> float:
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        begin = time.perf_counter()
        answers = model.generate_batch(inputs=[chat(text)["input_ids"][0].tolist() for text in EIGHT], generation_config=config)
        return sum(len(answer.generated_tokens) for answer in answers.values()) / (time.perf_counter() - begin)

    numbers = itertools.count()
    seconds(chat(PROMPT), 8)
    memory = float(psutil.Process().memory_info().rss)

    def measure() -> Figures:
        number = next(numbers)
        long = tokenizer(long_prompt(number), return_tensors="pt")
        first = seconds(chat(PROMPT), 1)
        whole = seconds(chat(PROMPT), given.new_tokens)
        return {
            "decode_tok_s": (given.new_tokens - 1) / (whole - first),
            "first_token_s": first,
            "prefill_tok_s": long["input_ids"].shape[1] / seconds(long, 1),
            "warm_prefix_s": seconds(tokenizer(shared_beginning() + ending(number), return_tensors="pt"), 1),
            "streams8_tok_s": batch(given.new_tokens // 2),
            "rss_bytes": memory,
        }

    serve(measure)


if __name__ == "__main__":
    main()
