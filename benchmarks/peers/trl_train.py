"""Peer: TRL's SFTTrainer with PEFT, on the rows that the daemon prepared, in the same order and with the same seed."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import load_from_disk
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.peers import Figures, serve, step_losses


class Stopwatch(TrainerCallback):
    """Adds up the optimiser steps' seconds, and nothing around them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begin = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The first micro-step begins."""
        self._begin = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """The weights are updated."""
        self.seconds += time.perf_counter() - self._begin


def main() -> None:
    """Serves useful tokens a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--accumulate", type=int, required=True)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--grouped", action="store_true", help="batches of rows of like length, in another order")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    rows = load_from_disk(given.dataset)["train"]

    def measure() -> Figures:
        stopwatch = Stopwatch()
        with tempfile.TemporaryDirectory() as out:
            trainer = SFTTrainer(
                model=AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype)),
                train_dataset=rows,
                args=_settings(given, out),
                processing_class=tokenizer,
                peft_config=LoraConfig(
                    r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]
                ),
                callbacks=[stopwatch],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        tokens = next(entry["num_tokens"] for entry in reversed(trainer.state.log_history) if "num_tokens" in entry)
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "train_tok_s": tokens / stopwatch.seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        } | step_losses(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)

    serve(measure)


def _settings(given: argparse.Namespace, out: str) -> SFTConfig:
    return SFTConfig(
        output_dir=out,
        per_device_train_batch_size=given.batch,
        gradient_accumulation_steps=given.accumulate,
        gradient_checkpointing=given.checkpointing,
        packing=given.packing,
        train_sampling_strategy="group_by_length" if given.grouped else "random",
        learning_rate=2e-4,
        max_steps=given.steps,
        max_length=1024,
        optim="adamw_torch",
        bf16=False,
        fp16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=42,
    )


if __name__ == "__main__":
    main()
