"""A LoRA adapter in memory."""

from __future__ import annotations

from dataclasses import dataclass

from smolorad.engine.model.runner import ModelRunner
from smolorad.engine.native.decoder import NativeRunner


@dataclass(frozen=True, slots=True)
class Adapter:
    """The base model with an adapter on it; one of the two runners is there at least."""

    runner: ModelRunner | None  # a view of the base; None where the native step needs none
    parameters: int
    native: NativeRunner | None = None  # the base's native step with the adapter in it, where that is possible
