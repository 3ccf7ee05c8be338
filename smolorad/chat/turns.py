"""One turn of a conversation."""

from __future__ import annotations

from typing import NamedTuple


class Turn(NamedTuple):
    """The text of one role. `trained` is False where a row says that the turn is context: it is read, and never learned."""

    role: str
    content: str
    trained: bool = True


Turns = tuple[Turn, ...]
Value = str | Turns  # what stands in a column of a row
