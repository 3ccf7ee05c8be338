"""Peer: the whole job as the original did it: fp32, TRL as it is, and everything loaded anew where it is needed."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

INFERENCES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What both scripts get."""
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)


def done(phase: str) -> None:
    """Reports that a phase is over; its reader has the clock."""
    print(f"done {phase}", flush=True)


def main() -> None:
    """The whole job; reports when each phase is done."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args()
    # Inside, so that the arguments above cost nothing to the module that shares them.
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(given.threads)
    adapter, merged = Path(given.output, "adapter_checkpoint"), Path(given.output, "final_merged")
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    model.config.use_cache = False
    trainer = _trainer(given, model, tokenizer)
    done("initialisation")

    trainer.train()
    trainer.model.save_pretrained(adapter)
    done("training")

    del model, trainer
    gc.collect()
    base = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    whole = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    whole.save_pretrained(merged)
    tokenizer.save_pretrained(merged)
    del base, whole
    gc.collect()
    done("saving")

    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    done("loading")

    for _ in range(INFERENCES):
        inputs = tokenizer(given.prompt, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=given.new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        tokenizer.decode(ids[0], skip_special_tokens=True)
    done("inference")


def _trainer(given: argparse.Namespace, model: Any, tokenizer: Any) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    files = sorted(Path(given.data).glob("*.txt"))
    rows = [stripped for file in files for line in file.read_text().splitlines() if (stripped := line.strip())]
    return SFTTrainer(
        model=model,
        train_dataset=Dataset.from_dict({"text": rows}),
        args=SFTConfig(
            output_dir=given.output,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=8,
            learning_rate=2e-4,
            max_steps=given.steps,
            logging_steps=10,
            optim="adamw_torch",
            fp16=False,
            bf16=False,
            use_cpu=True,
            max_length=1024,
            dataset_text_field="text",
            save_strategy="no",
            report_to="none",
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.1, bias="none", task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]
        ),
    )


if __name__ == "__main__":
    main()
