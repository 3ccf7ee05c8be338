"""What the project and its peers are asked in the decode benchmark, the same for all."""

from __future__ import annotations

PROMPT = "Explain how tides work in simple terms."
EIGHT = [
    f"Explain how {what} work in simple terms."
    for what in ("tides", "magnets", "clocks", "rainbows", "bees", "bridges", "vaccines", "volcanoes")
]
_LINE = "The tide rises, the tide falls, the twilight darkens, the curlew calls; along the sea-sands damp and brown. "


def long_prompt(number: int) -> str:
    """Some 510 tokens that begin differently each time, so that no cache of the last one helps."""
    return f"{number} {number * 7} {number * 13} nights ago. " + _LINE * 18


def shared_beginning() -> str:
    """Some 1,024 tokens that all of `ending` follow."""
    return " ".join(f"Note {at}: {_LINE.strip()}" for at in range(31))


def ending(number: int) -> str:
    """Some 32 tokens that are new each time."""
    return (
        f" So on evening {number} the traveller asks: how long until the water is back, and which path over the sand "
        "is dry by then? Answer:"
    )
