"""What a training needs of memory and time, estimated before its first step.

Activations are counted as Korthikanti et al. count them ("Reducing Activation Recomputation in Large Transformer Models",
2022): values kept for the backward pass, a token and layer. How many those are differs between the two trainers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import psutil
import torch

from smolorad.domain import Estimate, TrainerSettings
from smolorad.engine.train.dataset import Rows
from smolorad.engine.train.fast.kernels import kernels
from smolorad.engine.train.fast.matmul import product_dtype
from smolorad.engine.train.fast.trainer import BUDGET
from smolorad.errors import OutOfMemory

_ROWS_READ = 64  # a sample of the lengths, evenly spaced, as rows are often sorted
_MARGIN = 1.15
_AROUND_BYTES = 120e6  # of the training libraries and their caches
# How many logits are in memory at once, and bytes for each in all formats of the pass.
_FAST_LOGITS, _PLAIN_LOGITS_WIDTH, _BYTES_A_LOGIT = 16e6, 32_768, 14
# Share of the measured speed of torch's product that a whole step reaches: with our kernels, without, and in the plain trainer.
_OWN_SHARE, _FAST_SHARE, _PLAIN_SHARE = 0.60, 0.30, 0.10


@dataclass(frozen=True, slots=True)
class Workload:
    """How much a step computes."""

    longest: int  # tokens of the longest row
    mean: float  # tokens a row
    rows: int  # a step
    rows_at_once: int  # a micro-step, with its padding
    fast: bool
    answers: int = 1  # rows that one row becomes: two for a pair

    @classmethod
    def of(cls, rows: Rows, settings: TrainerSettings, *, fast: bool) -> Workload:
        """The workload of tokenised rows; their mean length is that of a sample."""
        count = len(rows.train)
        read = min(_ROWS_READ, count)
        lengths = [_length(row) for row in rows.train.select([place * count // read for place in range(read)])]
        at_once = settings.per_device_train_batch_size
        rows_a_step = at_once * settings.gradient_accumulation_steps
        answers = 2 if rows.shape.is_preference else 1
        mean = min(fmean(lengths), rows.longest)
        return cls(longest=rows.longest, mean=mean, rows=rows_a_step, rows_at_once=at_once, fast=fast, answers=answers)

    @property
    def tokens_at_once(self) -> float:
        """Tokens of a micro-step."""
        if self.fast:
            return max(min(BUDGET, self.rows * self.mean), self.longest)
        return self.rows_at_once * self.longest * self.answers

    @property
    def tokens_a_step(self) -> float:
        """Tokens of an optimiser step."""
        return self.rows * self.mean * self.answers


def estimate(model: Any, trained: int, work: Workload, steps: int, *, checkpointing: bool) -> Estimate:
    """What a training of `trained` parameters takes, on a model in memory, and how much memory is free."""
    config = model.config.get_text_config()
    layers, width = config.num_hidden_layers, config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    inner = max(inner) if isinstance(inner, list | tuple) else inner  # of each layer
    size = next(model.parameters()).element_size()
    a_layer = (8 * width + 4 * inner if work.fast else 24 * width + 7 * inner) * size
    kept = layers * width * size + a_layer if checkpointing else layers * a_layer
    logits = _FAST_LOGITS if work.fast else work.tokens_at_once * min(config.vocab_size, _PLAIN_LOGITS_WIDTH)
    # Weights, gradients and Adam's two moments, in fp32.
    memory = _MARGIN * (work.tokens_at_once * kept + logits * _BYTES_A_LOGIT) + 16 * trained + _AROUND_BYTES
    parameters = sum(p.numel() for p in model.parameters())
    # Two operations a weight and token forward, two backward, and where layers are computed again, two more.
    flop = (6.0 if checkpointing else 4.0) * parameters * work.tokens_a_step * steps
    fast_share = _OWN_SHARE if kernels(next(model.parameters())) is not None else _FAST_SHARE
    parameter = next(model.parameters())
    product_flop_s = _product_flop_s(parameter.device, product_dtype(parameter) if work.fast else parameter.dtype)
    seconds = flop / (product_flop_s * (fast_share if work.fast else _PLAIN_SHARE))
    return Estimate(int(memory), available_bytes(next(model.parameters()).device), seconds)


def smaller(settings: TrainerSettings, *, fast: bool) -> str:
    """The settings that make a micro-step smaller when they are lowered; without those that are 1 already."""
    # The fast trainer takes all rows of a step at once, however they were counted.
    counts = ("per_device_train_batch_size", "gradient_accumulation_steps")[: 2 if fast else 1]
    return " or ".join(f"trainer.{name}" for name in ("max_length", *(name for name in counts if getattr(settings, name) > 1)))


def refuse(needed: Estimate, name: str, advice: str) -> OutOfMemory:
    """The error for a training that does not fit; `advice` is what `smaller` says."""
    return OutOfMemory(
        f"This training on {name} needs about {needed.memory_bytes / 1e9:.1f} GB besides the model, and "
        f"{needed.available_bytes / 1e9:.1f} GB are free; lower {advice}, "
        "train a smaller model, or close other programs."
    )


def available_bytes(device: torch.device) -> int:
    """Memory that is free for a training now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    if device.type == "mps":
        return min(free, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free


def _length(row: Any) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _product_flop_s(device: torch.device, dtype: torch.dtype) -> float:
    """How fast this machine multiplies in a format, measured in some 20 ms, or by one product where that takes longer."""
    left = torch.ones(256, 512, dtype=dtype, device=device)
    right = torch.ones(512, 1024, dtype=dtype, device=device)
    (left[:16] @ right).sum().item()
    begin, rounds, seconds = time.perf_counter(), 0, 0.0
    while seconds < 0.02:
        (left @ right).sum().item()
        rounds, seconds = rounds + 1, time.perf_counter() - begin
    return rounds * 2.0 * 256 * 512 * 1024 / seconds
