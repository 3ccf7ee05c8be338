"""What other libraries say."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The beginning of a library's message, fit for a sentence of ours."""
    return next(iter(str(error).strip().splitlines()), "no message")[:200]
