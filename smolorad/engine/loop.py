"""THE torch thread: takes commands, steps one thing, posts events."""

from __future__ import annotations

from typing import Any

from smolorad.engine.base import Base
from smolorad.errors import Cancelled
from smolorad.link.child import Inbox


class Loop:
    """What the engine does, one step at a time. It is the `Host` that a training breathes through."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._base: Base | None = None

    def breathe(self, call: int) -> None:
        """Between two micro-steps of training `call`: serves what is pending for a bounded slice.

        Raises Cancelled if somebody cancelled the training.
        """
        self._inbox.working()
        if self._inbox.cancelled(call):
            raise Cancelled("The training was cancelled.")

    def draining(self) -> bool:
        """Whether the engine is to end: checkpoint, then raise ShuttingDown."""
        return self._inbox.draining.is_set()

    def emit(self, call: int, **body: Any) -> None:
        """Sends one event of a call."""
        self._inbox.emit(call, **body)
