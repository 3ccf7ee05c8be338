"""Our trainer settings as TRL's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import DPOConfig, SFTConfig

from smolorad.domain import TrainerSettings
from smolorad.errors import InvalidRequest

# These are translated, or unknown to TRL or to one of its trainers; all others keep their names.
_TRANSLATED = frozenset(
    {
        "max_steps",
        "num_train_epochs",
        "neftune_noise_alpha",
        "eval_steps",
        "eval_rows",
        "max_length",
        "save_seconds",
        "completion_only_loss",
        "assistant_only_loss",
        "early_stopping_patience",
        "beta",
        "packing",
        "sample_prompts",
        "sample_steps",
        "sample_max_tokens",
        "tensorboard",
        "trainer",
    }
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run's arguments depend on besides the settings."""

    output_dir: Path
    max_length: int  # the settings', at most the model's context
    evaluates: bool  # whether rows were held out
    evaluates_first: bool  # whether they are also measured before the first step
    on_cpu: bool
    processes: int = 1  # that share the run


def sft_config(settings: TrainerSettings, setting: Setting, *, whole_steps: bool = False) -> SFTConfig:
    """The trl.SFTConfig of a run. It does not say which tokens are scored: dataset.py gives every row its labels.

    With `whole_steps` an optimiser step's rows come in one batch: the same rows, since the sampler's order is cut the same way.
    """
    if whole_steps:
        rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        settings = dataclasses.replace(settings, per_device_train_batch_size=rows, gradient_accumulation_steps=1)
    return SFTConfig(
        **_common(settings, setting),
        packing=settings.packing,
        # Without padding every token is read; and the end of a text is not padding, though many models use one token for both.
        include_num_input_tokens_seen="all" if whole_steps or settings.packing else "non_padding",
        dataset_kwargs={"skip_prepare_dataset": True},  # dataset.py does it
    )


def dpo_config(settings: TrainerSettings, setting: Setting) -> DPOConfig:
    """The trl.DPOConfig of a run on preference pairs."""
    return DPOConfig(**_common(settings, setting), beta=settings.beta, include_num_input_tokens_seen="non_padding")


def _common(settings: TrainerSettings, setting: Setting) -> dict[str, Any]:
    by_epochs = settings.num_train_epochs is not None
    every = settings.eval_steps if setting.evaluates else 0
    settings = _for_each(settings, setting.processes)
    same = {f.name for f in dataclasses.fields(settings)} - _TRANSLATED
    return {name: getattr(settings, name) for name in sorted(same)} | {
        "output_dir": str(setting.output_dir),
        "max_length": setting.max_length,
        "max_steps": -1 if by_epochs else settings.max_steps,
        "num_train_epochs": settings.num_train_epochs if by_epochs else 1.0,
        "neftune_noise_alpha": settings.neftune_noise_alpha or None,
        "eval_strategy": "steps" if every else "no",
        "eval_steps": every or None,
        "eval_on_start": setting.evaluates_first,
        # The base's own number format decides; TRL's default would compute in bf16 whatever it is.
        "bf16": False,
        "fp16": False,
        "use_cpu": setting.on_cpu,
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would hide the NaN that ends a run
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _for_each(settings: TrainerSettings, processes: int) -> TrainerSettings:
    """The settings of one of several processes, such that together they take the same rows a step as one would.

    Raises InvalidRequest where those rows cannot be shared out.
    """
    for name in ("gradient_accumulation_steps", "per_device_train_batch_size"):
        if getattr(settings, name) % processes == 0:
            return dataclasses.replace(settings, **{name: getattr(settings, name) // processes})
    raise InvalidRequest.field(
        "trainer.gradient_accumulation_steps", f"cannot be shared by {processes} processes; make it a multiple of {processes}"
    )
