"""Plain text: every line that is not empty is a row."""

from __future__ import annotations

from pathlib import Path

from smolorad.corpus.readers.lines import read_lines
from smolorad.corpus.rows import Row, Rows
from smolorad.domain import RowProblem


def read_txt(path: Path, file: str) -> Rows:
    """The stripped lines of a file, empty ones left out; `file` names it in rows and problems."""
    for line in read_lines(path, file):
        if line.why is not None:
            yield RowProblem(file, line.number, line.why)
        elif text := line.text.strip():
            yield Row(text, file, line.number)
