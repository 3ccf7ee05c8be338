"""What the corpus tests share: files to read, and somebody to prepare for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import strategies as st

from smolorad.corpus.rows import Row, Rows
from smolorad.domain import Note, PhaseProgress, RowProblem

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


def fill(folder: Path, files: dict[str, str]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


class Recorder:
    """A host that listens; `check` raises what was put into `stop` once it was asked so often."""

    def __init__(self, stop: Exception | None = None, after: int = 0) -> None:
        self.events: list[PhaseProgress | Note] = []
        self._stop = stop
        self._left = after

    def check(self) -> None:
        if self._stop is not None and self._left == 0:
            raise self._stop
        self._left -= 1

    def tell(self, event: PhaseProgress | Note) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        """The notes told."""
        return [event.text for event in self.events if isinstance(event, Note)]
