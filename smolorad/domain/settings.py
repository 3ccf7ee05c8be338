"""The settings of a training run, with PEFT's and TRL's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from smolorad.domain.bounds import one_of, within


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The adapter's shape, with peft.LoraConfig's names."""

    r: int = within(8, least=1, most=1024)
    lora_alpha: int = within(16, least=1, most=65536)
    lora_dropout: float = within(0.1, least=0.0, below=1.0)
    target_modules: tuple[str, ...] = ()  # empty: q_proj and v_proj, or PEFT's own mapping where a model has none of them
    exclude_modules: tuple[str, ...] = ()
    bias: str = one_of("none", "none", "all", "lora_only")
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] = ()
    init_lora_weights: str = "true"
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """How a run goes, with trl.SFTConfig's names."""

    max_steps: int = within(500, least=1, most=10_000_000)
    num_train_epochs: float | None = within(None, above=0.0, most=100_000)
    per_device_train_batch_size: int = within(1, least=1, most=1024)
    gradient_accumulation_steps: int = within(8, least=1, most=4096)
    learning_rate: float = within(2e-4, above=0.0, most=10.0)
    lr_scheduler_type: str = one_of(
        "linear", "linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt", "cosine_with_restarts"
    )
    warmup_steps: float = within(0.0, least=0.0, most=10_000_000)
    optim: str = one_of("adamw_torch", "adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adagrad")
    weight_decay: float = within(0.0, least=0.0, most=100.0)
    adam_beta1: float = within(0.9, least=0.0, below=1.0)
    adam_beta2: float = within(0.999, least=0.0, below=1.0)
    adam_epsilon: float = within(1e-8, above=0.0, most=1.0)
    max_grad_norm: float = within(1.0, least=0.0, most=1e9)
    max_length: int = within(1024, least=8, most=1_000_000)
    packing: bool = False
    gradient_checkpointing: bool = False
    neftune_noise_alpha: float = within(0.0, least=0.0, most=1000.0)
    seed: int = within(42, least=0, most=2**32 - 1)
    logging_steps: int = within(10, least=1, most=10_000_000)
    eval_steps: int = within(0, least=0, most=10_000_000)
    per_device_eval_batch_size: int = within(8, least=1, most=1024)
    eval_rows: int = within(256, least=0, most=10_000_000)
    save_steps: int = within(50, least=1, most=10_000_000)
    save_seconds: float = within(30.0, least=0.0, most=86_400)
    completion_only_loss: bool = True
    assistant_only_loss: bool = True
    early_stopping_patience: int = within(0, least=0, most=10_000)
    beta: float = within(0.1, above=0.0, most=10.0)
    sample_prompts: tuple[str, ...] = ()
    sample_steps: int = within(50, least=1, most=10_000_000)
    sample_max_tokens: int = within(48, least=1, most=1024)
    tensorboard: bool = False
    trainer: str = one_of("fast", "fast", "plain")
