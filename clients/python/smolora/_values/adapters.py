"""Adapters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from smolora._values.models import Dtype, Origin
from smolora._values.settings import LoraSettings, TrainerSettings


@dataclass(frozen=True, slots=True)
class Adapter:
    """One immutable revision of an adapter."""

    name: str
    revision: int
    create_time: datetime
    origin: Origin
    base_model: str
    base_fingerprint: str
    base_dtype: Dtype | None
    dataset: str
    job_id: str
    lora: LoraSettings
    trainer: TrainerSettings | None
    steps: int
    train_loss: float
    eval_loss_before: float | None
    eval_loss_after: float | None
    parameters: int
    size_bytes: int
    path: str
    parent: str
    scored_share: float
