"""Words, and pieces of a given number of them. A word is what `str.split` says: anything between whitespace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

_WORD = re.compile(r"\S+")


def count_words(text: str) -> int:
    """The number of whitespace-separated words."""
    return len(text.split())


def chunk(text: str, chunk_size: int) -> Iterator[str]:
    """Pieces of `chunk_size` words joined by one space, the last one shorter; with 0 or less the text as it is."""
    if chunk_size <= 0:
        yield text
        return
    # One word at a time: a list of all words of a book on one line takes twenty times its bytes.
    words = (match.group() for match in _WORD.finditer(text))
    while piece := list(islice(words, chunk_size)):
        yield " ".join(piece)


def chunk_texts(texts: Iterable[str], chunk_size: int = 0) -> Iterator[str]:
    """The pieces of each text in turn; pieces never hold words of two texts."""
    for text in texts:
        yield from chunk(text, chunk_size)
