"""Text that knows which turn of a conversation each character comes from, through all that a chat template does with it.

A chat template strips, splits, joins and concatenates what it is given. `Tracked` is a `str` that does the same and carries the
origin of each character along. So an answer's words need not be searched for in the rendered text, and what a user wrote is
never taken for what the template wrote.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, SupportsIndex

TEMPLATE = "\0"  # the origin of what the template wrote
_MARKED = 0x80000  # added to an origin between `{% generation %}` and `{% endgeneration %}`
_PRIVATE = 0x100000  # private characters begin here
_ANY_MARK = re.compile(f"[{chr(_MARKED)}-{chr(sys.maxunicode)}]")


class Tracked(str):
    """A text and, in `origins`, a second text of the same length: of each character where it comes from.

    The origin of turn n is `chr(n + 1)`. Operations that are not overridden here lose the origins; `attributed` restores them.
    """

    __slots__ = ("origins",)
    origins: str

    def __new__(cls, text: str, origins: str | None = None) -> Tracked:
        """By default the template wrote all of it."""
        made = str.__new__(cls, text)
        made.origins = TEMPLATE * len(text) if origins is None else origins
        return made

    @classmethod
    def of_turn(cls, text: str, number: int) -> Tracked:
        """The content of turn `number`, from 0."""
        return cls(text, chr(number + 1) * len(text))

    def __str__(self) -> str:
        return self  # jinja2 calls `str` on everything that it writes

    def __add__(self, other: str) -> Tracked:
        if not isinstance(other, str):
            return NotImplemented
        return Tracked(str.__add__(self, other), self.origins + origins_of(other))

    def __radd__(self, other: str) -> Tracked:
        if not isinstance(other, str):
            return NotImplemented
        return Tracked(str.__add__(other, self), origins_of(other) + self.origins)

    def __mul__(self, times: SupportsIndex) -> Tracked:
        return Tracked(super().__mul__(times), self.origins * times)

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> Tracked:
        return Tracked(super().__getitem__(key), self.origins[key])

    def __iter__(self) -> Iterator[str]:
        return (self[at] for at in range(len(self)))

    def lstrip(self, chars: str | None = None, /) -> Tracked:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None, /) -> Tracked:
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None, /) -> Tracked:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> Tracked:
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> Tracked:
        return self[: -len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self._parts(super().splitlines(keepends))

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = super().partition(sep)
        return self[: len(before)], self[len(before) : len(before) + len(found)], self[len(self) - len(after) :]

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, after = super().rpartition(sep)
        return self[: len(before)], self[len(before) : len(before) + len(found)], self[len(self) - len(after) :]

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Tracked:
        if not old:
            return attributed(super().replace(old, new, count), self, new)
        made = join(new, self.split(old, count))
        # A content of which nothing else is left is still the turn's.
        return made if made.origins.strip(TEMPLATE) else attributed(str.__str__(made), self)

    def join(self, parts: Iterable[str], /) -> Tracked:
        return join(self, parts)

    def _parts(self, parts: list[str], sep: str | None = None) -> list[str]:
        """Parts that stand in this order in the text, with their origins; `sep` stands between them."""
        text, origins, gap = str.__str__(self), self.origins, len(sep or "")
        found: list[str] = []
        at = 0
        for part in parts:
            if not gap:
                at = text.find(part, at)
            found.append(Tracked(part, origins[at : at + len(part)]))
            at += len(part) + gap
        return found


def origins_of(text: str) -> str:
    """The origin of each character."""
    return text.origins if isinstance(text, Tracked) else TEMPLATE * len(text)


def join(separator: str, parts: Iterable[str]) -> Tracked:
    """As `separator.join(parts)`."""
    listed = list(parts)
    # Not by `origins_of`: this is where rendering spends its time.
    origins = [part.origins if isinstance(part, Tracked) else TEMPLATE * len(part) for part in listed]
    return Tracked(str.join(separator, listed), str.join(origins_of(separator), origins))


def concatenated(values: Iterable[Any]) -> Tracked:
    """As jinja2 concatenates what a template wrote."""
    return join("", [value if isinstance(value, str) else str(value) for value in values])


def attributed(text: str, *made_of: Any) -> Tracked:
    """A text that an operation made of some values: all of it comes from the turn that most of their characters come from.

    Where it is as long as the first of them, each character stands for the one in its place, as in upper case.
    """
    whole = next((one for one in made_of if isinstance(one, Tracked)), None)
    if whole is not None and len(whole) == len(text):
        return Tracked(text, whole.origins)
    found = Counter(chain.from_iterable(map(_turns, made_of)))
    del found[TEMPLATE]
    origin = found.most_common(1)[0][0] if found else TEMPLATE
    return Tracked(text, origin * len(text))


def _turns(value: Any) -> Iterable[str]:
    if isinstance(value, Tracked):
        return value.origins
    if isinstance(value, Mapping):
        return chain.from_iterable(map(_turns, value.values()))
    return chain.from_iterable(map(_turns, value)) if isinstance(value, list | tuple) else ()


def formatted(form: Callable[..., str], pattern: object, args: Sequence[Any], more: Mapping[str, Any]) -> Tracked:
    """What `form` makes of the values by a pattern of the template's: a text of which each character has its origin.

    It formats once more, the values' origins in place of the values, each as a private character.
    """
    made, shape = form(*args, **more), None
    if not (isinstance(pattern, Tracked) and pattern.origins.strip(TEMPLATE)):
        shape = form(*_in_private(args), **_in_private(more))
    if shape is None or len(shape) != len(made):  # a form that counts, escapes, or is a user's own text
        return attributed(made, pattern, args, more)
    return Tracked(made, "".join(chr(ord(one) - _PRIVATE) if ord(one) >= _PRIVATE else TEMPLATE for one in shape))


def _in_private(value: Any) -> Any:
    if isinstance(value, Tracked):
        return "".join(chr(_PRIVATE + ord(one) % 0x10000) for one in value.origins)
    if isinstance(value, Mapping):
        return {key: _in_private(one) for key, one in value.items()}
    return type(value)(map(_in_private, value)) if type(value) in (list, tuple) else value


def keeping_origins(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but a text that it makes of tracked ones is attributed to their turn."""

    def call(*args: Any, **more: Any) -> Any:
        made = function(*args, **more)
        return attributed(made, *args, more) if isinstance(made, str) and not isinstance(made, Tracked) else made

    call.__dict__.update(getattr(function, "__dict__", {}))  # jinja2's note of what else it passes
    return call


def marked(text: str) -> Tracked:
    """A text that stands within generation marks."""
    origins = origins_of(text)
    return Tracked(text, origins.translate({ord(one): ord(one) | _MARKED for one in set(origins)}))


def without_marks(origins: str) -> str:
    """The origins, whether marked or not."""
    if not _ANY_MARK.search(origins):  # much faster than to translate
        return origins
    return origins.translate({ord(one): ord(one) & ~_MARKED for one in set(origins)})


def is_marked(origin: str) -> bool:
    """Whether a character of this origin stands within generation marks."""
    return bool(ord(origin) & _MARKED)
