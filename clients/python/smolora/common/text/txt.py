"""Plain text and Markdown: a row is a line, a paragraph, or the whole file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

from smolora.common.problems import ProblemKind, RowProblem
from smolora.common.text.compressed import Openable
from smolora.common.text.lines import MAX_LINE_BYTES, Line, read_lines
from smolora.common.text.rows import Row, Rows, excerpt

LINE, PARAGRAPH, DOCUMENT = "line", "paragraph", "document"
# CommonMark: what follows backticks on their line holds none, else it is code within a sentence.
_FENCE = re.compile(r"\s*(?:(`{3,})[^`]*|(~{3,}).*)")
_FRONT_MATTER = "---"


def read_txt(path: Openable, file: str, unit: str = LINE) -> Rows:
    """The stripped lines, paragraphs or whole text of a file, empty ones left out; `file` names it in rows and problems."""
    with closing(read_lines(path, file)) as lines:
        yield from _read(lines, file, unit)


def read_markdown(path: Openable, file: str, unit: str = PARAGRAPH) -> Rows:
    """As `read_txt`, but without the front matter, and with each fenced block of code in one piece."""
    with closing(read_lines(path, file)) as lines:
        yield from _read(_without_front_matter(lines), file, unit, fenced=True)


def _read(lines: Iterator[Line], file: str, unit: str, *, fenced: bool = False) -> Rows:
    if unit != LINE:
        yield from _blocks(lines, file, whole=unit == DOCUMENT, fenced=fenced)
        return
    for line in lines:
        if line.why is not None:
            yield line.problem(file)
        elif text := line.text.strip():
            yield Row(text, file, line.number)


def _blocks(lines: Iterator[Line], file: str, *, whole: bool, fenced: bool) -> Rows:
    """Lines joined up to an empty one, or to the end; a fault takes the block that it stands in with it."""
    block = _Block(file)
    fence = ""
    for line in lines:
        text = line.text.rstrip()
        if line.why is not None:
            yield line.problem(file)
            block.spoilt = True
        elif fence:
            fence = "" if _closes(text.strip(), fence) else fence
        elif fenced and (opened := _FENCE.fullmatch(text)):
            fence = opened[1] or opened[2]
        if text or whole or fence:
            block.add(text, line.number)
        else:
            yield from block.take()
    yield from block.take()


def _closes(text: str, fence: str) -> bool:
    return len(text) >= len(fence) and text == fence[0] * len(text)


class _Block:
    """The lines of a row as they come."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: list[str] = []
        self._begin = 0
        self._characters = 0
        self.spoilt = False

    def add(self, text: str, number: int) -> None:
        """One more line; of a block that is too long only the length is kept."""
        if not self._lines and not text:
            return
        self._begin = self._begin or number
        self._characters += len(text) + 1
        if self._characters <= MAX_LINE_BYTES:
            self._lines.append(text)

    def take(self) -> Rows:
        """The row, or the problem, of what came since the last one."""
        text = "\n".join(self._lines).strip()
        if self._characters > MAX_LINE_BYTES:
            why = f"begins a text longer than {MAX_LINE_BYTES:,} characters; break it up, or read it by line"
            yield RowProblem(self._file, self._begin, why, ProblemKind.MALFORMED, excerpt(text))
        elif text and not self.spoilt:
            yield Row(text, self._file, self._begin)
        self._lines, self._begin, self._characters, self.spoilt = [], 0, 0, False


def _without_front_matter(lines: Iterator[Line]) -> Iterator[Line]:
    """All lines but those between a first `---` and the next; where there is no next, all."""
    first = next(lines, None)
    if first is None:
        return
    held = [first]
    if first.text.rstrip() == _FRONT_MATTER:
        for line in lines:
            held.append(line)
            if line.text.rstrip() == _FRONT_MATTER:
                held.clear()
                break
    yield from held
    yield from lines
