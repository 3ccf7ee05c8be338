"""A JSON file: an array of objects, or one object after another; read one element at a time, whatever the file's size.

Many files of that ending are JSON Lines. Those are read line by line, so that a fault costs one row, not the rest of the file.
"""

from __future__ import annotations

import codecs
import json
import re
from contextlib import closing, suppress
from itertools import islice
from typing import BinaryIO

from smolora.common.problems import ProblemKind, RowProblem
from smolora.common.text.compressed import Openable, open_binary
from smolora.common.text.jsonl import DECODER, kind_of, malformed, read_objects
from smolora.common.text.lines import MAX_LINE_BYTES, read_lines
from smolora.common.text.rows import BadFile, Record, Records, excerpt

_PIECE_BYTES = 2**18
_CUT_OFF = "Unterminated string starting at"
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(path: Openable, file: str) -> Records:
    """The objects of an array, or one after another, each at the line where it begins.

    Raises BadFile where the file is not UTF-8 or not JSON, unless it has one object a line: behind a fault it is not known
    where the next element begins.
    """
    if _is_lines(path, file):
        yield from read_objects(path, file)
        return
    with open_binary(path, file, lambda: text.line) as stream:
        text = _Text(stream, file)
        first = text.peek()
        if first == "":
            return
        if first != "[":
            yield _element(text, file)
            while text.peek() == "{":
                yield _element(text, file)
            _end(text, file)
            return
        text.skip()
        if text.peek() == "]":
            text.skip()
        else:
            while True:
                yield _element(text, file)
                mark = text.peek()
                if mark not in (",", "]"):
                    raise BadFile(file, text.line, "is not JSON: a comma or the end of the array is missing; add it")
                text.skip()
                if mark == "]":
                    break
        _end(text, file)


def _is_lines(path: Openable, file: str) -> bool:
    """Whether both of the first two lines that are not empty begin an object, as those of no single one do."""
    with suppress(BadFile), closing(read_lines(path, file)) as lines:
        begins = (line.text.lstrip()[:1] for line in lines if line.text.strip())
        return list(islice(begins, 2)) == ["{", "{"]
    return False


def _element(text: _Text, file: str) -> Record | RowProblem:
    text.peek()
    line = text.line
    value, source = text.value()
    if isinstance(value, RowProblem):
        return value
    if not isinstance(value, dict):
        why = f'holds {kind_of(value)}, not an object; write one such as {{"text": "..."}}'
        return RowProblem(file, line, why, ProblemKind.MALFORMED, excerpt(source))
    return Record(value, file, line)


def _end(text: _Text, file: str) -> None:
    if text.peek():
        raise BadFile(file, text.line, "has text behind the end of the JSON value; write one array, or name the file .jsonl")


class _Text:
    """The text of a file from where one has got to."""

    def __init__(self, stream: BinaryIO, file: str) -> None:
        self._stream = stream
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self.line = 1

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._advance(space.end())
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Passes over one character."""
        self._advance(self._at + 1)

    def value(self) -> tuple[object, str]:
        """The JSON value that begins here, or the problem with it, and how it begins."""
        self.peek()
        while True:
            shown = self._text[self._at : self._at + 400]
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._left() <= MAX_LINE_BYTES and self._more():
                    continue
                # What reaches up to where reading stopped may well be sound; the decoder says of a string where it begins.
                if self._left() > MAX_LINE_BYTES and (error.pos >= len(self._text) or error.msg == _CUT_OFF):
                    why = f"is longer than {MAX_LINE_BYTES:,} characters, or is never closed; break it up"
                    raise BadFile(self._file, self.line, why) from error
                line = self.line + self._text.count("\n", self._at, error.pos)
                raise BadFile(self._file, line, f"is not JSON: {error.msg.removesuffix(' at')}; correct it there") from error
            except RecursionError as error:
                raise BadFile(self._file, self.line, "is nested too deeply to be read; flatten it") from error
            except ValueError as error:
                raise BadFile(self._file, self.line, malformed(error, self._file, self.line, shown).why) from error
            # A number at the end of what was read may continue.
            if end < len(self._text) or not self._more():
                self._advance(end)
                return value, shown

    def _left(self) -> int:
        return len(self._text) - self._at

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Reads on, twice as much as there is; whether there was more."""
        data = self._stream.read(max(_PIECE_BYTES, self._left()))
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self.line + self._text.count("\n", self._at) + data.count(b"\n", 0, error.start)
            raise BadFile(self._file, line, "is not UTF-8; save the file as UTF-8") from error
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(data)
