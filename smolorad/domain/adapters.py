"""Adapters: revisions, and what a training reports when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from smolorad.domain.bounds import Ref
from smolorad.domain.models import Dtype, Origin
from smolorad.domain.settings import LoraSettings, TrainerSettings


@dataclass(frozen=True, slots=True)
class Adapter:
    """One immutable revision of an adapter."""

    name: str
    revision: int
    create_time: datetime
    origin: Origin
    base_model: str
    base_fingerprint: str
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
    base_dtype: Dtype | None = None  # the number format of the base in memory while it was trained
    parent: str = ""  # the adapter whose training it continues
    scored_share: float = 0.0

    @property
    def ref(self) -> Ref:
        """`name@revision`."""
        return Ref(self.name, self.revision)


@dataclass(frozen=True, slots=True)
class Trained:
    """The engine's result of a training."""

    steps: int
    train_loss: float
    eval_loss_before: float | None
    eval_loss_after: float | None
    parameters: int
    lora: LoraSettings
    scored_share: float = 0.0  # of the tokens read
