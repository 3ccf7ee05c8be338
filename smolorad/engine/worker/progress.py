"""How work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

from smolorad.domain import PhaseProgress

# An error that it raises stops the work: that is how a call is cancelled.
Report = Callable[[PhaseProgress], None]


def no_progress(progress: PhaseProgress) -> None:
    """A report that goes nowhere."""
