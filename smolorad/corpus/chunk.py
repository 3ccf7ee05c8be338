"""Texts cut into pieces: of words, of tokens, of paragraphs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from smolora.common.text.chunk import chunk
from smolorad.corpus.tokenizer import ModelText
from smolorad.domain import ChunkUnit, PrepareSpec
from smolorad.errors import InvalidRequest

_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_GAP = re.compile(r"(?<=\S)\s(?=\S)")
_PART_CHARACTERS = 2**16

Cut = Callable[[str], Iterable[str]]


def cutter(spec: PrepareSpec, model: ModelText | None) -> Cut | None:
    """What cuts a text as the spec says; None where it stays whole.

    Raises InvalidRequest where pieces of tokens are wanted but no model is at hand.
    """
    size, overlap = spec.chunk_size, spec.chunk_overlap
    if not size:
        return None
    match spec.chunk_unit:
        case ChunkUnit.WORDS:
            return lambda text: chunk(text, size)
        case ChunkUnit.PARAGRAPHS:
            return lambda text: by_paragraphs(text, size)
        case ChunkUnit.TOKENS:
            if model is None:
                raise InvalidRequest.field(
                    "chunk_unit", "is tokens, but no tokenizer is at hand; load a model, or name one with --model"
                )
            return lambda text: by_tokens(text, size, overlap, model)


def by_paragraphs(text: str, size: int) -> Iterator[str]:
    """Pieces of `size` paragraphs joined by an empty line, the last one shorter."""
    parts = [part for part in _EMPTY_LINES.split(text) if part.strip()]
    return ("\n\n".join(parts[at : at + size]) for at in range(0, len(parts), size))


def by_tokens(text: str, size: int, overlap: int, model: ModelText) -> Iterator[str]:
    """Pieces of at most `size` tokens, each beginning `overlap` tokens before the end of the one before it.

    A piece is a part of the text as it stands, stripped. A token is what the tokenizer makes of the text. No character is
    torn: a piece ends before one that does not fit, and has at least one.
    """
    parts = _parts(text)
    places: list[tuple[int, int]] = []  # of the tokens from the piece at hand on, as far as they are known
    begin, known = 0, False
    while True:
        while not known and len(places) <= begin + size:
            at, part = next(parts, (0, ""))
            known = not part
            found = model.tokenizer.encode(part, add_special_tokens=False).offsets
            places += [(at + first, at + last) for first, last in found]
        if begin >= len(places):
            return
        end = _whole(places, begin, min(begin + size, len(places)))
        if piece := text[places[begin][0] : places[end - 1][1]].strip():
            yield piece
        if known and end == len(places):
            return
        begin = max(end - overlap, begin + 1)
        if begin > _PART_CHARACTERS:
            del places[:begin]
            begin = 0


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """A text in parts that are encoded one by one, each with its place: the tokens of a book take a hundred times its bytes.

    A part begins with the space before a word, where tokens begin too; where there is none, anywhere.
    """
    begin = 0
    while begin < len(text):
        most = begin + _PART_CHARACTERS
        gap = _GAP.search(text, most, most + _PART_CHARACTERS)
        end = gap.start() if gap else most
        yield begin, text[begin:end]
        begin = end


def _whole(places: Sequence[tuple[int, int]], begin: int, end: int) -> int:
    """Where a piece of the tokens from `begin` to about `end` ends, between two characters."""

    def within(at: int) -> bool:
        return at < len(places) and places[at][0] < places[at - 1][1]

    least = end
    while least > begin and within(least):
        least -= 1
    if least > begin:
        return least
    while within(end):
        end += 1
    return end
