"""The statements of `queries.sql` by name, and JSON columns."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, TypeVar

import msgspec

from smolorad.errors import Damaged
from smolorad.log import Log

log = Log(__name__)

T = TypeVar("T")

_HEAD = re.compile(r"^-- (?P<name>[a-z_]+): .+$", re.MULTILINE)


def _load() -> Mapping[str, str]:
    parts = _HEAD.split(files("smolorad.store").joinpath("queries.sql").read_text(encoding="utf-8"))
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


SQL = _load()


def to_json(value: Any) -> str:
    """A domain value as JSON."""
    return msgspec.json.encode(value).decode()


def from_json(kind: type[T], text: str) -> T:
    """A domain value from JSON; raises Damaged where it is not one."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise Damaged(
            f"A record ({kind.__name__}) of the daemon's database cannot be read ({error}); "
            "restart the daemon, which reads it from its folder again."
        ) from error


def readable(rows: Iterable[sqlite3.Row], read: Callable[[sqlite3.Row], T], limit: int | None = None) -> list[T]:
    """The first `limit` values of rows that can be read, or all; one damaged row does not hide the others of a list."""
    return list(itertools.islice(_readable(rows, read), limit))


def _readable(rows: Iterable[sqlite3.Row], read: Callable[[sqlite3.Row], T]) -> Iterator[T]:
    for row in rows:
        try:
            yield read(row)
        except Damaged as error:
            log.warning("unreadable row left out of a list", why=error.message)
