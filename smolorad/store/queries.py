"""The statements of `queries.sql` by name, and JSON columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, TypeVar

import msgspec

from smolorad.errors import Damaged

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
    except msgspec.MsgspecError as error:
        raise Damaged(
            f"A {kind.__name__} in the daemon's database cannot be read ({error}); restart the daemon, then make it again."
        ) from error
