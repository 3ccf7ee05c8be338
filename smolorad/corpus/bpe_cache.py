"""Token ids by the word: what a byte-level BPE makes of a word does not depend on the words around it, so it is made once.

Pre-tokenizers of GPT-2's kind begin a new piece at every single space, and behind every single newline, between two characters
that are no space: no token crosses these places. Words repeat, so looking them up is many times as fast as
tokenising them. The ids are the tokenizer's own, to the last one; otherwise the tokenizer gets the whole text.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, count, pairwise
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from smolorad.chat.encode import ID_BYTES, to_bytes
from smolorad.corpus.arrow_file import numbered

_MOST_PIECES = 2**18
_PIECE, _TEXT = "\0", "\1"  # stand between pieces, and between texts
_REFUSED = " "  # a piece whose neighbours matter
_LINE_BEGINS = re.compile(r"(?<=[^\s\0\1]\n)(?=[^\s\0\1])")
# Behind letters all three patterns below start again, so words share their parts. ASCII alone: NFC changes nothing there.
_BORDERS = re.compile(r"(?<=[A-Za-z])(?=[!-/:-@\[-`{-~])")
# How Llama 3, Qwen 2 and GPT-4 part a text, where they do not leave it to ByteLevel's own pattern, which is GPT-2's.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    _LETTERS + r"\p{N}{1,3}" + _REST,
    _LETTERS + r"\p{N}" + _REST,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


class _Numbers(dict[str, int]):
    """The number of each piece. One that is not known yet gets the next, and is noted; one whose neighbours matter gets 0."""

    def __init__(self, known: Iterable[str]) -> None:
        super().__init__(zip(known, count(1)))
        self.noted: list[str] = []
        self.refused = False

    def __missing__(self, piece: str) -> int:
        bare = piece.removeprefix(" ").removesuffix("\n")
        if not bare or bare != bare.strip():
            self.refused = True
            return 0
        self.noted.append(piece)
        self[piece] = number = len(self) + 1
        return number


class WordEncoder:
    """Encodes texts with a tokenizer, without the special tokens that it would put around them.

    `spec` is the content of its `tokenizer.json`. Ids come as the bytes of 32-bit numbers. `by_words` says whether the rule
    applies.
    """

    def __init__(self, tokenizer: Tokenizer, spec: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        added = spec.get("added_tokens") or []
        self.by_words = _begins_anew_at_spaces(spec) and all(map(_stands_anywhere, added))
        # What is never forgotten: nothing, what stands alone between two special tokens, and those.
        self._fixed = {gap: self._ids([gap])[0] for gap in ("", "\n", "\n\n")} | {one["content"]: [one["id"]] for one in added}
        longest_first = sorted((re.escape(one["content"]) for one in added), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})") if longest_first else None
        self._begin()

    def _begin(self) -> None:
        """Forgets what was learned."""
        self._numbers = _Numbers(self._fixed)
        self._parts: dict[str, list[int]] = {}
        # The ids of all pieces by number, one behind another, and where each begins; number 0 has none.
        self._ids_of = array("i", chain.from_iterable(self._fixed.values()))
        self._begins = array("i", [0, *accumulate(map(len, self._fixed.values()), initial=0)])

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text."""
        if not self.by_words or not texts:
            return self._slow(texts)
        if len(self._numbers) > _MOST_PIECES:
            self._begin()
        self._numbers.refused = False
        number_of = self._numbers.__getitem__
        numbers: list[int] = []
        bounds = [0]
        # One by one, so that the pieces take the same few places in memory again and again.
        for text in self._marked(texts).split(_TEXT):
            numbers += map(number_of, text.split(_PIECE))
            bounds.append(len(numbers))
        self._learn()
        found = self._looked_up(numbers, bounds)
        if self._numbers.refused:
            refused = [at for at, (begin, end) in enumerate(pairwise(bounds)) if 0 in numbers[begin:end]]
            for at, ids in zip(refused, self._slow([texts[at] for at in refused]), strict=True):
                found[at] = ids
        return found

    def _marked(self, texts: Sequence[str]) -> str:
        """All texts, marks between them and between their pieces; for one that does not do, a piece that is refused."""
        whole = _TEXT.join(texts)
        if _PIECE in whole or "\n " in whole or whole.count(_TEXT) >= len(texts):
            whole = _TEXT.join(_REFUSED if _PIECE in text or _TEXT in text or "\n " in text else text for text in texts)
        parts = [whole] if self._special is None else self._special.split(whole)  # by turns text and special token
        return _PIECE.join(part if odd % 2 else _parted(part) for odd, part in enumerate(parts))

    def _learn(self) -> None:
        """Tokenises the pieces that were noted, all at once, as a call costs more than a piece."""
        pieces = [_BORDERS.split(piece) for piece in self._numbers.noted]
        self._numbers.noted.clear()
        unknown = list(set(chain.from_iterable(pieces)).difference(self._parts))
        self._parts.update(zip(unknown, self._ids(unknown), strict=True))
        ids: list[int] = []
        for parts in pieces:
            for part in parts:
                ids += self._parts[part]
            self._begins.append(len(self._ids_of) + len(ids))
        self._ids_of.extend(array("i", ids))

    def _looked_up(self, numbers: list[int], bounds: list[int]) -> list[bytes]:
        """The ids of the pieces with these numbers, parted at these bounds."""
        of_pieces = pa.ListArray.from_arrays(numbered(self._begins, pa.int32()), numbered(self._ids_of, pa.int32()))
        taken = of_pieces.take(numbered(array("i", numbers), pa.int32()))
        ids = taken.values.buffers()[1].to_pybytes()
        ends = taken.offsets.take(numbered(array("i", bounds), pa.int32())).to_pylist()
        return [ids[begin * ID_BYTES : end * ID_BYTES] for begin, end in pairwise(ends)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _slow(self, texts: Sequence[str]) -> list[bytes]:
        return list(map(to_bytes, self._ids(texts)))


def _parted(text: str) -> str:
    """Text without special tokens, with marks before its words."""
    if "\n" in text:
        text = _LINE_BEGINS.sub(_PIECE, text)
    return text.replace(" ", _PIECE + " ")


def _stands_anywhere(token: Mapping[str, Any]) -> bool:
    """Whether an added token is the same beside any neighbour: takes no space with it, and may be part of a word."""
    depends = token["lstrip"] or token["rstrip"] or token["single_word"] or token["normalized"]
    content = token["content"]
    return not (depends or _PIECE in content or _TEXT in content or content == _REFUSED)


def _begins_anew_at_spaces(spec: Mapping[str, Any]) -> bool:
    """Whether the rule above applies to a tokenizer."""
    model, normalizer, parts = spec.get("model") or {}, spec.get("normalizer"), spec.get("pre_tokenizer") or {}
    if model.get("type") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        return False
    if model.get("end_of_word_suffix") or (normalizer is not None and normalizer.get("type") != "NFC"):
        return False
    steps = parts.get("pretokenizers", []) if parts.get("type") == "Sequence" else [parts]
    return all(map(_keeps_words, steps)) and any(map(_parts_words, steps))


def _keeps_words(step: Mapping[str, Any]) -> bool:
    """Whether a step parts a text at such places alone, or wherever it likes, but the same way in each word."""
    match step.get("type"):
        case "ByteLevel":
            return not step.get("add_prefix_space")
        case "Digits":
            return True
        case "Split":
            return _parts_words(step)
    return False


def _parts_words(step: Mapping[str, Any]) -> bool:
    if step.get("type") == "ByteLevel":
        return bool(step.get("use_regex", True))
    pattern = step.get("pattern") or {}
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return step.get("type") == "Split" and regex in _PATTERNS and step.get("behavior") == "Isolated" and not step.get("invert")
