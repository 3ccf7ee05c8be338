"""Peer: the script that everyone has: import, load, generate, print. Run anew each time; reports when its first token came."""

from __future__ import annotations

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer


class FirstToken(TextStreamer):
    """Remembers when the first token after the prompt came."""

    at = 0.0

    def put(self, value: torch.Tensor) -> None:
        """Called with the prompt, then with each token."""
        if not self.next_tokens_are_prompt:
            self.at = self.at or time.time()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Keeps standard output for the figures."""


def main() -> None:
    """Prints the first token's time on the clock that the caller has too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)).eval()
    streamer = FirstToken(tokenizer, skip_prompt=True)
    inputs = tokenizer(given.prompt, return_tensors="pt")
    model.generate(
        **inputs, do_sample=False, max_new_tokens=given.new_tokens, streamer=streamer, pad_token_id=tokenizer.eos_token_id
    )
    print(json.dumps({"first_token_at": streamer.at}))


if __name__ == "__main__":
    main()
