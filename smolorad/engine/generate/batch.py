"""Requests whose next tokens one native step computes together: it reads the weights once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part

Parts = Sequence[tuple[GenerationRequest, Part]]
# Around what concerns one request: a failure inside ends that request alone.
Guard = Callable[[GenerationRequest], AbstractContextManager[None]]


def next_parts(requests: Sequence[GenerationRequest], guard: Guard) -> Parts:
    """Each request's tokens for the next step: at least one each, and the first has the most. One that fails has no part."""
    parts: list[tuple[GenerationRequest, Part]] = []
    rows = MAX_ROWS
    for behind, request in zip(reversed(range(len(requests))), requests, strict=True):
        with guard(request):
            part = request.next_tokens(rows - behind)
            rows -= len(part.tokens)
            parts.append((request, part))
    return parts


def compute_logits(native: NativeModel, parts: Parts) -> list[tuple[GenerationRequest, NDArray[np.float32] | None]]:
    """The logits of each request. Where memory is too short for the step: none, and the first request alone."""
    ends = np.cumsum([len(part.tokens) if part.every else 1 for _, part in parts])
    try:
        logits = np.split(native.step([part for _, part in parts]), ends[:-1])
    except MemoryError:
        return [(parts[0][0], None)]
    return [(request, own) for (request, _), own in zip(parts, logits, strict=True)]
