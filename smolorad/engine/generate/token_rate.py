"""How fast tokens are made."""

from __future__ import annotations

_WEIGHT = 0.2  # of the newest sample


class TokenRate:
    """A moving average of the seconds that a token takes."""

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Adds a sample: the seconds that one token took."""
        self.samples += 1
        self.seconds += (seconds - self.seconds) * max(_WEIGHT, 1 / self.samples)

    @property
    def tokens_per_second(self) -> float:
        """0 before the first sample."""
        return 1 / self.seconds if self.seconds else 0.0
