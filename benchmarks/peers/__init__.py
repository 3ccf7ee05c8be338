"""The peers: what a user would do without smolora.

Each is a process of its own that gets ready once, and measures once for each line it reads.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping

Figures = Mapping[str, float]


def serve(measure: Callable[[], Figures]) -> None:
    """Says that it is ready, then answers each line of standard input with the figures of one measurement."""
    # Libraries print what they like; only the figures go to the real standard output.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), file=out, flush=True)


def step_losses(losses: Iterable[float]) -> Figures:
    """The loss of every step, each as a figure of its own."""
    return {f"loss_{step}": loss for step, loss in enumerate(losses, 1)}


def missing(reason: str) -> None:
    """Says why this peer is not available, and ends."""
    print(json.dumps({"missing": reason}), flush=True)
    sys.exit(0)
