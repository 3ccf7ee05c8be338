"""Breaths inside a micro-step, so that a first token need not wait for the end of a long row.

A generation reads the base's tensors and never touches what a training's view holds, so it can run between two layers, forward
or backward, as well as between two micro-steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

# Work between two breaths: some 25 ms of two cores with bf16 units. Counted, not timed, so that every run breathes alike.
WORK_FLOP = 10e9


class YieldPoints:
    """Breathes after so much work of a model's layers and head."""

    def __init__(self, yield_to_requests: Callable[[], None]) -> None:
        self._breathe = yield_to_requests
        self._done_flop = 0.0

    def attach(self, layers: Any) -> None:
        """Watches decoder layers whose output is one tensor (1, tokens, width), or a tuple that begins with it."""
        for layer in layers:
            # Forward and backward each take two operations a weight and token; attention's own are few beside them.
            flop_a_token = 2.0 * sum(parameter.numel() for parameter in layer.parameters())
            layer.register_forward_hook(partial(self._after, flop_a_token))

    def work(self, flop: float) -> None:
        """So much was computed."""
        self._done_flop += flop
        if self._done_flop >= WORK_FLOP:
            self._done_flop = 0.0
            self._breathe()

    def _after(self, flop_a_token: float, _layer: Any, _inputs: Any, output: Any) -> None:
        states: Tensor = output[0] if isinstance(output, tuple) else output
        flop = flop_a_token * states.shape[1]
        self.work(flop)
        if states.requires_grad:
            states.register_hook(lambda _: self.work(flop))
