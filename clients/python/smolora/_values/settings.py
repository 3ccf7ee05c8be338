"""The settings of a training, as they took effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The shape of a trained adapter, with peft.LoraConfig's names."""

    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: tuple[str, ...]
    exclude_modules: tuple[str, ...]
    bias: str
    use_rslora: bool
    use_dora: bool
    modules_to_save: tuple[str, ...]
    layers_to_transform: tuple[int, ...]
    init_lora_weights: str
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """How an adapter was trained, with trl.SFTConfig's names."""

    max_steps: int
    num_train_epochs: float | None
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    optim: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    max_length: int
    packing: bool
    gradient_checkpointing: bool
    neftune_noise_alpha: float
    seed: int
    logging_steps: int
    eval_steps: int
    per_device_eval_batch_size: int
    eval_rows: int
    save_steps: int
    save_seconds: float
    completion_only_loss: bool
    assistant_only_loss: bool
    early_stopping_patience: int
    beta: float
    sample_prompts: tuple[str, ...]
    sample_steps: int
    sample_max_tokens: int
    tensorboard: bool
    trainer: str
