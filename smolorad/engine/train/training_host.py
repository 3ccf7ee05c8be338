"""What a training asks of the loop that it runs inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from smolorad.engine.adapters.adapter import Adapter

# Returns the number of the last step, and the adapter as it is after that step.
Snapshot = Callable[[], tuple[int, Adapter]]


class Host(Protocol):
    """The loop that a training runs inside."""

    def yield_to_requests(self, call: int) -> None:
        """Serves what is pending for a bounded slice; raises Cancelled if the call was cancelled."""

    def stopping(self, call: int) -> bool:
        """Whether the training is to checkpoint and end."""

    def offer(self, call: int, snapshot: Snapshot | None, between: str = "") -> None:
        """Lets requests have the adapter as it is after a step; None ends that. `between` says when requests are served."""

    def emit(self, call: int, **body: Any) -> None:
        """Sends one event of a call."""


@dataclass(frozen=True, slots=True)
class HostCall:
    """The host, as one training calls it."""

    host: Host
    call: int

    def yield_to_requests(self) -> None:
        """As `Host.yield_to_requests`."""
        self.host.yield_to_requests(self.call)

    def stopping(self) -> bool:
        """As `Host.stopping`."""
        return self.host.stopping(self.call)

    def offer(self, snapshot: Snapshot | None, between: str = "") -> None:
        """As `Host.offer`."""
        self.host.offer(self.call, snapshot, between)

    def emit(self, **body: Any) -> None:
        """As `Host.emit`."""
        self.host.emit(self.call, **body)
