"""Pages of lists: how many, and from where."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from smolorad.errors import InvalidRequest
from smolorad.log import Log

log = Log(__name__)

DEFAULT_SIZE, LARGEST_SIZE = 100, 1000

_PAGE_BYTES = 3 * 2**20

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class PageRequest(Protocol):
    """The fields of every List request."""

    page_size: int
    page_token: str


async def page(
    request: PageRequest,
    fetch: Callable[[int, str | None], Awaitable[list[T]]],
    key: Callable[[T], str],
    message: Callable[[T], M],
) -> tuple[list[M], str]:
    """One page of messages, newest first, and the token of the next one; empty on the last.

    `fetch(limit, before)` reads rows older than the one with that key. A page of large messages has fewer of them than was
    asked for, as they must fit into one answer. Raises InvalidRequest.
    """
    size = request.page_size or DEFAULT_SIZE
    if not 1 <= size <= LARGEST_SIZE:
        raise InvalidRequest.field("page_size", f"is {size}, but must be at least 1 and at most {LARGEST_SIZE:,}")
    rows = await fetch(size + 1, _open(request.page_token) if request.page_token else None)
    messages: list[M] = []
    room, shown = _PAGE_BYTES, 0
    for row in rows[:size]:
        try:
            one = message(row)
        except (TypeError, ValueError) as error:  # damaged where only the contract's types show it
            log.warning("what no message can carry is left out of a list", key=key(row), why=error)
        else:
            room -= one.ByteSize()
            if messages and room < 0:
                break
            messages.append(one)
        shown += 1
    return messages, _seal(key(rows[shown - 1])) if len(rows) > shown else ""


def _seal(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _open(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest.field(
            "page_token", "is not a token of an earlier response; leave it empty for the first page"
        ) from None
