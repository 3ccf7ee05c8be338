"""Plain text: every line that is not empty is a row."""

from __future__ import annotations

from pathlib import Path

from smolora._models import RowProblem
from smolora._text.lines import read_lines
from smolora._text.rows import Row, Rows


def read_txt(path: Path, file: str) -> Rows:
    """The stripped lines of a file, empty ones left out; `file` names it in rows and problems."""
    for line in read_lines(path, file):
        if line.why is not None:
            yield RowProblem(file, line.number, line.why)
        elif text := line.text.strip():
            yield Row(text, file, line.number)
