"""What the project and its peers are asked in the decode benchmark, the same for all."""

from __future__ import annotations

PROMPT = "Explain how tides work in simple terms."
_THINGS = ("tides", "magnets", "clocks", "rainbows", "bees", "bridges", "vaccines", "volcanoes")
_MANNERS = ("in simple terms", "to a child", "with an example", "in one paragraph")
_LINE = "The tide rises, the tide falls, the twilight darkens, the curlew calls; along the sea-sands damp and brown. "


def question(number: int) -> str:
    """One of 32 questions of the same form."""
    return f"Explain how {_THINGS[number % len(_THINGS)]} work {_MANNERS[number // len(_THINGS) % len(_MANNERS)]}."


def long_text(lines: int, number: int = 0) -> str:
    """That text, about 28 tokens a line; another number is another beginning, so that no cache of the last helps."""
    return f"{number} {number * 7} {number * 13} nights ago. " + _LINE * lines


def shared_beginning() -> str:
    """Some 1,024 tokens that all of `ending` follow."""
    return " ".join(f"Note {at}: {_LINE.strip()}" for at in range(31))


def ending(number: int) -> str:
    """Some 32 tokens that are new each time."""
    return (
        f" So on evening {number} the traveller asks: how long until the water is back, and which path over the sand "
        "is dry by then? Answer:"
    )
