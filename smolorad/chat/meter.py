"""What one rendering of a chat template may cost: steps, and the size of what it makes.

A template comes with its model, so anybody may have written it. The bounds grow with the conversation, and are far above what
a template needs that shows it: they meet loops without end, texts of gigabytes and lists that contain themselves twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from jinja2.utils import Namespace

from smolorad.errors import UnsupportedModel

T = TypeVar("T")

# A turn takes some hundred steps. Some templates look at all turns at each turn, which takes twenty for each pair of them.
_STEPS, _PER_TURN, _PER_PAIR, _PER_CHARACTER, _MOST_STEPS = 300_000, 5_000, 100, 16, 500_000_000
_SIZE, _SIZE_PER_CHARACTER = 2**20, 16
_MOST_BITS = 2**14  # of a whole number; more takes long to multiply, and cannot be shown anyway
_CHARACTERS_IN_STEP = 64
_ITEM = 16  # characters that an item takes in a list that is shown, beside its own


class Meter:
    """The steps that are left, and the largest value that may be made, in characters."""

    def __init__(self, turns: int, characters: int) -> None:
        """For a conversation with these numbers of turns and characters."""
        self.steps = min(_STEPS + _PER_TURN * turns + _PER_PAIR * turns**2 + _PER_CHARACTER * characters, _MOST_STEPS)
        self._left = self.steps
        self._most = _SIZE + _SIZE_PER_CHARACTER * characters
        # By its id the weight of each list that was seen, and the list itself, so that no other one gets its id.
        self._weights: dict[int, tuple[Any, int]] = {}

    def spend(self, steps: int) -> None:
        """Counts steps."""
        self._left -= steps
        if self._left < 0:
            refuse(f"takes more than {self.steps:,} steps to show this conversation")

    def make(self, size: int) -> None:
        """Called before a value of this many characters is made."""
        if size > self._most:
            refuse(f"makes a text or a list of {_shown(size)} characters, and {self._most:,} is the limit")
        self.spend(size // _CHARACTERS_IN_STEP)

    def parts(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The values, of which one text is about to be made."""
        self.make(sum(map(self.weight, values)))
        return values

    def read(self, *values: Any) -> None:
        """Values are read from their beginning to their end."""
        self.spend(sum(map(self.weight, values)) // _CHARACTERS_IN_STEP)

    def made(self, value: T) -> T:
        """The value, which was made just now."""
        if isinstance(value, str | bytes):
            self.make(len(value))
        elif isinstance(value, int):
            self.number(value.bit_length())
        elif isinstance(value, list | tuple | dict | set | frozenset):
            self.make(self.weight(value))
        return value

    def number(self, bits: int) -> None:
        """Called before a whole number of this many bits is made."""
        if bits > _MOST_BITS:
            refuse(f"makes a number of {_shown(bits)} binary digits, and {_MOST_BITS:,} is the limit")

    def each(self, values: Iterable[T]) -> Iterator[T]:
        """The values, each of them a step."""
        for value in values:
            self.spend(1)
            yield value

    def weight(self, value: Any) -> int:
        """How many characters a value takes where it is shown. What stands twice in a list counts twice."""
        if isinstance(value, str | bytes | range):
            return len(value)
        if isinstance(value, Namespace):  # it may change, so it is weighed each time
            value = object.__getattribute__(value, "_Namespace__attrs")
        elif (known := self._weights.get(id(value))) is not None:
            return known[1]
        if not isinstance(value, list | tuple | dict | set | frozenset):
            return 0
        self.spend(1 + len(value))
        inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        weight = sum(_ITEM + self.weight(one) for one in inner)
        if not self._changes(inner):
            self._weights[id(value)] = value, weight
        return weight

    def _changes(self, inner: Iterable[Any]) -> bool:
        return any(
            isinstance(one, Namespace) or (isinstance(one, list | tuple | dict) and id(one) not in self._weights)
            for one in inner
        )


def refuse(what: str) -> NoReturn:
    """Raises UnsupportedModel for a template that does what no template needs."""
    raise UnsupportedModel(
        f"The model's chat template {what}; choose another model, or give it prompts instead of conversations."
    )


def _shown(number: int) -> str:
    return f"{number:,}" if number < 10**15 else "more than 10^15"
