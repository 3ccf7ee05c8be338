"""What a number may be, and what a name may be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smolorad.errors import InvalidRequest

TEXT_BYTES = 2**16  # of all the texts in one field


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a number may be; `above` and `below` are exclusive."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        parts = [
            f"{word} {_exactly(limit)}"
            for word, limit in (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
            if limit is not None
        ]
        return " and ".join(parts)

    def allow(self, value: float) -> bool:
        """Whether the value is inside. NaN never is."""
        return (
            value == value
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def _exactly(limit: float) -> str:
    return f"{int(limit):,}" if limit == int(limit) else f"{limit:,.12g}"


def within(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    return field(default=default, metadata={"bounds": Bounds(least, most, above, below)})


def one_of(default: str, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def check(value: Any, prefix: str = "") -> None:
    """Checks each field of a settings value against its bounds and choices.

    Raises InvalidRequest that names the field, what it is, and what it may be.
    """
    for f in dataclasses.fields(value):
        got = getattr(value, f.name)
        bounds: Bounds | None = f.metadata.get("bounds")
        choices: tuple[str, ...] | None = f.metadata.get("choices")
        if got is None:
            continue
        if bounds is not None and not bounds.allow(got):
            raise InvalidRequest.field(f"{prefix}{f.name}", f"is {got}, but must be {bounds}")
        if choices is not None and got not in choices:
            raise InvalidRequest.field(f"{prefix}{f.name}", f"is {got!r}, but must be one of {', '.join(choices)}")


def check_texts(value: Any, prefix: str = "") -> None:
    """Checks the texts of each field of a job's settings against their bound; raises InvalidRequest.

    They come back in lists, events and errors, and each of those must fit into one message.
    """
    for f in dataclasses.fields(value):
        if (size := _text_bytes(getattr(value, f.name))) > TEXT_BYTES:
            raise InvalidRequest.field(f"{prefix}{f.name}", f"has {size:,} bytes, but must have at most {TEXT_BYTES:,}")


def _text_bytes(value: Any) -> int:
    match value:
        case str():
            return len(value.encode(errors="replace"))
        case Mapping():
            return sum(_text_bytes(part) for pair in value.items() for part in pair)
        case tuple() | list():
            return sum(map(_text_bytes, value))
        case _ if dataclasses.is_dataclass(value):
            return sum(_text_bytes(getattr(value, f.name)) for f in dataclasses.fields(value))
    return 0


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
REVISION = re.compile(r"[1-9][0-9]{0,8}")


def check_name(name: str, field_name: str = "name") -> str:
    """The name itself, if it may name a dataset, an adapter or a model (and so a folder); else raises InvalidRequest."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidRequest.field(
            field_name, f"{name!r} is not a name; use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True, slots=True)
class Ref:
    """`name` or `name@revision`."""

    name: str
    revision: int | None = None  # None: the newest

    @classmethod
    def parse(cls, text: str, field_name: str = "name") -> Ref:
        """Reads `name` or `name@revision`; raises InvalidRequest."""
        name, at, revision = text.partition("@")
        check_name(name, field_name)
        if not at:
            return cls(name)
        if not REVISION.fullmatch(revision):
            raise InvalidRequest.field(
                field_name, f"{text!r} does not end in a revision; write {name}@1, or {name} for the newest"
            )
        return cls(name, int(revision))

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"
