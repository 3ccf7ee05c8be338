"""ModelLease: the loaded model while a request uses it; and the count of such requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from smolorad.children.engine import Engine
from smolorad.domain import Adapter, ResidentModel
from smolorad.errors import BadState, WrongBase
from smolorad.residency.resolver import Base


@dataclass(frozen=True, slots=True)
class ModelLease:
    """The engine and its model for one request; the model is not unloaded meanwhile."""

    engine: Engine
    model: ResidentModel
    base: Base

    def check_base(self, adapter: Adapter) -> None:
        """Raises WrongBase if the adapter was trained on another base."""
        if adapter.base_fingerprint and adapter.base_fingerprint != self.model.fingerprint:
            raise self._wrong_base(str(adapter.ref), adapter.base_model)

    def check_model(self, model: str, adapter: str) -> None:
        """Raises WrongBase if an adapter's model, both by name, is not the loaded one."""
        if model != self.model.name:
            raise self._wrong_base(adapter, model)

    def _wrong_base(self, adapter: str, model: str) -> WrongBase:
        return WrongBase(
            f"The adapter {adapter} belongs to {model}, but {self.model.name} is loaded; "
            f"type `smolora-client load {model}` first."
        )


class LeaseCount:
    """The leases in use."""

    def __init__(self) -> None:
        self.active = 0
        self.training = 0  # of these, those of trainings
        self.idle = asyncio.Event()  # no lease is in use
        self.idle.set()

    @contextlib.contextmanager
    def counted(self, *, training: bool) -> Iterator[None]:
        """Counts one lease while the block runs."""
        self.active += 1
        self.training += training
        self.idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            self.training -= training
            if not self.active:
                self.idle.set()

    def refuse_while_training(self, what: str, model: ResidentModel | None) -> None:
        """Raises BadState if a training uses the loaded model; `what` is what the daemon was asked to do."""
        if self.training and model is not None:
            raise BadState(
                f"A training runs on {model.name}, so the daemon cannot {what}; "
                "wait for it, or type `smolora-client jobs cancel` with its id."
            )
