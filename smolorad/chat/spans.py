"""Parts of a text or of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Span = tuple[int, int]  # from where to where, the end not included


def in_common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many elements two sequences begin with alike."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(at for at in range(most) if one[at] != other[at])
