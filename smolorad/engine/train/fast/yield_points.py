"""Points inside a micro-step at which a training yields to requests, so that a first token need not wait for a long row's end.

A generation reads the base's tensors and never touches what a training's view holds, so it can run between two layers, forward
or backward, as well as between two micro-steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

# Work between two points: some 25 ms of two cores with bf16 units. Counted, not timed, so that every run yields alike.
WORK_FLOP = 10e9


class YieldPoints:
    """Yields each time a model's layers and head have done WORK_FLOP of work."""

    def __init__(self, yield_to_requests: Callable[[], None]) -> None:
        self._yield_to_requests = yield_to_requests
        self._done_flop = 0.0

    def attach(self, layers: Any) -> None:
        """Watches decoder layers whose output is one tensor (1, tokens, width), or a tuple that begins with it."""
        for layer in layers:
            # Forward and backward each take two operations a weight and token; attention's own are few beside them.
            flop_a_token = 2.0 * sum(parameter.numel() for parameter in layer.parameters())
            layer.register_forward_hook(partial(self._after, flop_a_token))

    def work(self, flop: float) -> None:
        """Adds work that was done."""
        self._done_flop += flop
        if self._done_flop >= WORK_FLOP:
            self._done_flop = 0.0
            self._yield_to_requests()

    def _after(self, flop_a_token: float, _layer: Any, _inputs: Any, output: Any) -> None:
        states: Tensor = output[0] if isinstance(output, tuple) else output
        flop = flop_a_token * states.shape[1]
        self.work(flop)
        if states.requires_grad:
            states.register_hook(lambda _: self.work(flop))
