"""What the tests of text share: texts to write, and what a reader makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import strategies as st

from smolora import RowProblem
from smolora.common.text.rows import Row, Rows

# What UTF-8 can write, without NUL: a text that every reader takes.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
# A text that stands on one line, for readers whose rows are lines.
LINES = TEXTS.map(lambda text: text.replace("\r", " ").replace("\n", " "))
WORDS = st.lists(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=6), max_size=40)


def read(reader: Callable[..., Rows], content: bytes | str, *more: str) -> list[Row | RowProblem]:
    """What a reader makes of a file with this content, named `f`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "content")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(reader(path, "f", *more))


def texts(rows: Iterable[Row | RowProblem]) -> list[str]:
    """The texts of rows; a problem is a failure."""
    found = list(rows)
    assert [one for one in found if isinstance(one, RowProblem)] == []
    return [one.text for one in found if isinstance(one, Row)]
