"""What the engine's tests share: tiny bases, adapters made with PEFT, and answers run to their end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from smolorad.domain import ChatMessage, Device, Dtype, GenerateOutcome, GenerateSpec, Sampling
from smolorad.engine.adapters import Adapter
from smolorad.engine.answer import Answer
from smolorad.engine.base import Base
from smolorad.engine.load import load


def fp32_base(folder: Path, name: str = "tiny") -> Base:
    """The model of a folder on the CPU in fp32, as the engine loads it."""
    return load(folder, name, device=Device.CPU, dtype=Dtype.FLOAT32)


def plain_model(folder: Path) -> Any:
    """The same model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_adapter(folder: Path, out: Path, *, seed: int = 1, **lora: Any) -> Path:
    """A PEFT folder for the model in `folder`, with random B weights, so that it changes every answer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(plain_model(folder), LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **lora}))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3 if "lora_" in name else 0.05)
    model.save_pretrained(out)
    return out


def spec(prompt: str = "", *, messages: tuple[ChatMessage, ...] = (), **sampling: Any) -> GenerateSpec:
    """A request; greedy unless a temperature is given."""
    return GenerateSpec(prompt=prompt, messages=messages, sampling=Sampling(**{"temperature": 0.0, **sampling}))


def begin(base: Base, request: GenerateSpec, adapter: Adapter | None = None) -> Answer:
    """An answer that has not made a step."""
    return Answer(1, base, adapter, "", request, time.monotonic())


def finish(answer: Answer) -> tuple[str, GenerateOutcome]:
    """Runs an answer to its end: all its text, and its outcome."""
    pieces = []
    while answer.outcome is None:
        pieces.append(answer.step())
    return "".join(pieces), answer.outcome


def generated_by_transformers(model: Any, tokenizer: Any, prompt: str, **options: Any) -> list[int]:
    """The ids that plain `generate` adds to a prompt."""
    inputs = tokenizer(prompt, return_tensors="pt")
    ids: list[int] = model.generate(**inputs, **options)[0, inputs.input_ids.shape[1] :].tolist()
    return ids
