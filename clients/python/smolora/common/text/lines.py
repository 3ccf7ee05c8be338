"""The physical lines of a text file, decoded one at a time, so that a fault is found where it stands."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from smolora.common.problems import ProblemKind, RowProblem
from smolora.common.text.compressed import Openable, open_binary
from smolora.common.text.rows import BadFile, excerpt, fault

# A whole book fits. What is longer is no line of text, and would be held several times over.
MAX_LINE_BYTES = 16 * 2**20
_BLOCK_BYTES = 2**18
_LOOKED_AT, _ENOUGH = 400, 12


class Line(NamedTuple):
    """One line with its end. Where `why` names a fault, `text` is only as much of it as could be decoded."""

    number: int  # from 1
    text: str
    why: str | None = None
    kind: ProblemKind = ProblemKind.ENCODING

    def problem(self, file: str) -> RowProblem:
        """The fault, as a row's problem."""
        return RowProblem(file, self.number, self.why or "", self.kind, excerpt(self.text))


class Block(NamedTuple):
    """Lines that have no fault, without their ends; `number` is the first one's."""

    number: int
    texts: list[str]


def read_lines(path: Openable, file: str, most: int = MAX_LINE_BYTES) -> Generator[Line, None, None]:
    """The lines of a file; they end in LF, CRLF or CR, as in Python's text files. A byte order mark is left out.

    A line that is not UTF-8, holds NUL or is longer than `most` bytes has a fault.
    Raises BadFile for a file in UTF-16 or UTF-32, OSError for one that cannot be read.
    """
    number = 0
    with open_binary(path, file, lambda: number + 1) as stream:
        for number, raw in enumerate(_from_the_first(_raw_lines(stream, most), file), 1):
            yield _line(number, raw, most)


def read_blocks(path: Openable, file: str, most: int = MAX_LINE_BYTES) -> Generator[Block | Line, None, None]:
    """As `read_lines`, many lines at a time where none has a fault: decoded at once, they take a third of the time."""
    number = 0
    with open_binary(path, file, lambda: number + 1) as stream:
        raws: list[bytes] = []
        size = 0
        try:
            for number, raw in enumerate(_from_the_first(_raw_lines(stream, most), file), 1):
                raws.append(raw)
                size += len(raw)
                if size > _BLOCK_BYTES:
                    yield from _decoded(raws, number, most)
                    raws, size = [], 0
        except (OSError, EOFError, zlib.error):  # a packed file that breaks off: what stands before is sound
            yield from _decoded(raws, number, most)
            raise
        yield from _decoded(raws, number, most)


def _decoded(raws: list[bytes], last: int, most: int) -> Iterator[Block | Line]:
    """Lines as one block, or else one by one; `last` is the number of the last."""
    first = last - len(raws) + 1
    data = b"".join(raws)
    ends = data.count(b"\r\n") if b"\r" in data else 0
    if len(data) <= most and data.count(b"\r") == ends and b"\0" not in data:
        with suppress(UnicodeDecodeError):
            texts = data.decode().split("\n")
            yield Block(first, texts[: len(raws)])
            return
    for number, raw in enumerate(raws, first):
        yield _line(number, raw, most)


def _from_the_first(raws: Iterator[bytes], file: str) -> Iterator[bytes]:
    """The lines without the mark that the first may begin with. Raises BadFile where that marks another encoding."""
    if (first := next(raws, None)) is None:
        return
    if (encoding := _other_encoding(first)) is not None:
        raise BadFile(file, 1, f"is the beginning of a file in {encoding}; save the file as UTF-8")
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from raws


def _other_encoding(raw: bytes) -> str | None:
    """What a file that begins so is written in; None for what is read here."""
    if raw.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # one of them begins as UTF-16's does
        return "UTF-32"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    # Without a mark: in most writings every second byte of UTF-16 is 0, and three of four of UTF-32.
    first = raw[:_LOOKED_AT]
    empty = [not any(first[at::4]) for at in range(4)]
    if len(first) < _ENOUGH or all(empty) or any(0 in first[at::4] for at in range(4) if not empty[at]):
        return None
    return {3: "UTF-32, it seems", 2: "UTF-16, it seems"}.get(sum(empty))


def _raw_lines(stream: BinaryIO, most: int) -> Iterator[bytes]:
    """Lines as they stand; of one that is too long, its first `most` + 1 bytes alone."""
    while chunk := stream.readline(most + 1):
        if len(chunk) > most:
            yield chunk
            while not chunk.endswith(b"\n") and (chunk := stream.readline(most)):
                pass
        elif b"\r" in chunk:
            yield from chunk.splitlines(keepends=True)
        else:
            yield chunk


def _line(number: int, raw: bytes, most: int) -> Line:
    if len(raw) > most:
        why = f"is longer than {most:,} bytes; break it into lines"
        return Line(number, raw.decode(errors="replace"), why, ProblemKind.MALFORMED)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        why = f"is not UTF-8: its byte {error.start + 1:,} is 0x{raw[error.start]:02x}; save the file as UTF-8"
        return Line(number, raw.decode(errors="replace"), why)
    return Line(number, text, fault(text))
