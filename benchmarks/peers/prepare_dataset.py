"""Peers: from a JSONL file to tokens as TRL's SFTTrainer prepares them, as a batched map does, and the original's functions.

The libraries are imported and the tokenizer is loaded before anything is timed; each round has caches of its own, as a corpus
that was never seen has.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from benchmarks.peers import Figures, serve


def read(path: Path, cache: str) -> Dataset:
    """The file as `datasets` reads it."""
    rows: Dataset = load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
    return rows.select_columns(["text"])


def by_trl(path: Path, tokenizer: Any, cache: str) -> int:
    """What SFTTrainer does with a dataset before the first step; its model is so small that it takes no time."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    settings = SFTConfig(output_dir=cache, max_length=1024, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True)
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config), args=settings, train_dataset=read(path, cache), processing_class=tokenizer
    )
    return len(trainer.train_dataset)


def by_batched_map(path: Path, tokenizer: Any, cache: str) -> int:
    """The tokenizer over batches of 1,000 rows, with the end-of-text token that training needs."""

    def tokenise(batch: dict[str, list[str]]) -> Any:
        return tokenizer([text + tokenizer.eos_token for text in batch["text"]])

    return len(read(path, cache).map(tokenise, batched=True, remove_columns=["text"]))


def by_original(path: Path, tokenizer: Any, cache: str) -> int:
    """The original design's `prepare_dataset`: read, strip, drop empties and repetitions; it leaves tokens to the trainer."""
    with path.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"].strip() for line in file]
    return len(Dataset.from_dict({"text": list(dict.fromkeys(text for text in texts if text))}))


WAYS: dict[str, Callable[[Path, Any, str], int]] = {"trl": by_trl, "map": by_batched_map, "original": by_original}


def main() -> None:
    """Serves megabytes a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)

    def measure() -> Figures:
        with tempfile.TemporaryDirectory() as cache:
            begin = time.perf_counter()
            rows = WAYS[given.way](given.data, tokenizer, cache)
            seconds = time.perf_counter() - begin
        return {"mb_s": given.data.stat().st_size / 1e6 / seconds, "rows": rows}

    serve(measure)


if __name__ == "__main__":
    main()
