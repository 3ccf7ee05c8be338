"""Token ids by the word: what a byte-level BPE makes of a word does not depend on the words around it, so it is made once.

Pre-tokenizers of GPT-2's kind begin a new piece at every single space, and behind every single newline, between two characters
that are no space: no token crosses these places. Words repeat, so looking them up is many times as fast as
tokenising them. The ids are the tokenizer's own, to the last one; where the rule does not hold, the whole text goes to it.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

_MOST_WORDS = 2**18
_LINE_BEGINS = re.compile(r"(?<=\S\n)(?=\S)")
_GAPS = ("\n", "\n\n", " ")  # what stands alone between two special tokens
# How Llama 3, Qwen 2 and GPT-4 part a text, where they do not leave it to ByteLevel's own pattern, which is GPT-2's.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    _LETTERS + r"\p{N}{1,3}" + _REST,
    _LETTERS + r"\p{N}" + _REST,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


class _Unsafe(Exception):
    """A piece that begins or ends with a space: its neighbours matter."""


class _Words(dict[str, bytes]):
    """The ids of each word as it stands behind `before`; a word that ends a line carries the end.

    A word that is not known yet is noted, and passes for nothing until `learn` is called.
    """

    def __init__(self, tokenizer: Tokenizer, before: str, line_end: str, noted: list[str]) -> None:
        self._tokenizer = tokenizer
        self._before = before
        self._line_end = line_end
        self._unknown: set[str] = set()
        self._noted = noted

    def __missing__(self, word: str) -> bytes:
        bare = word.removesuffix(self._line_end)
        if not bare or bare != bare.strip():
            raise _Unsafe
        self._unknown.add(word)
        self._noted.append(word)
        return b""

    def learn(self) -> None:
        """Tokenises what was noted, all at once, as a call costs more than a word."""
        words = list(self._unknown)
        found = self._tokenizer.encode_batch_fast([self._before + word for word in words], add_special_tokens=False)
        self.update(zip(words, (to_bytes(one.ids) for one in found), strict=True))
        self._unknown.clear()

    def forget(self) -> None:
        """Keeps the memory small."""
        if len(self) > _MOST_WORDS:
            self.clear()


class WordEncoder:
    """Encodes texts with a tokenizer, without the special tokens that it would put around them.

    `spec` is the content of its `tokenizer.json`. Ids come as the bytes of 32-bit numbers. `by_words` tells whether the rule
    holds.
    """

    def __init__(self, tokenizer: Tokenizer, spec: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self.by_words = _begins_anew_at_spaces(spec)
        added = spec.get("added_tokens") or []
        # A token that takes space around it with it, or stands for a word alone, depends on its neighbours.
        plain = all(not (one["lstrip"] or one["rstrip"] or one["single_word"] or one["normalized"]) for one in added)
        self.by_words = self.by_words and plain
        self._added = {one["content"]: to_bytes([one["id"]]) for one in added}
        longest_first = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})") if longest_first else None
        self._gaps = {gap: to_bytes(tokenizer.encode(gap, add_special_tokens=False).ids) for gap in ("", *_GAPS)}
        self._noted: list[str] = []  # words of the text at hand that are not known yet
        self._words = [_Words(tokenizer, before, end, self._noted) for before in ("", " ") for end in ("", "\n")]

    def encode(self, texts: list[str]) -> list[bytes]:
        """The ids of each text."""
        if not self.by_words:
            return self._slow(texts)
        for words in self._words:
            words.forget()
        found: list[bytes | None] = []
        incomplete = []
        for text in texts:
            found.append(self._quick(text))
            if self._noted:
                self._noted.clear()
                incomplete.append(len(found) - 1)
        for words in self._words:
            words.learn()
        for at in incomplete:
            found[at] = self._quick(texts[at])
        refused = [at for at, ids in enumerate(found) if ids is None]
        for at, ids in zip(refused, self._slow([texts[at] for at in refused]), strict=True):
            found[at] = ids
        return [ids for ids in found if ids is not None]

    def _slow(self, texts: list[str]) -> list[bytes]:
        return [to_bytes(found.ids) for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _quick(self, text: str) -> bytes | None:
        """The ids word by word; None where words do not do."""
        try:
            if self._special is None or self._special.search(text) is None:
                return self._plain(text)
            parts = self._special.split(text)  # by turns text and special token
            return b"".join(self._added[part] if odd % 2 else self._plain(part) for odd, part in enumerate(parts))
        except _Unsafe:
            return None

    def _plain(self, text: str) -> bytes:
        if (gap := self._gaps.get(text)) is not None:
            return gap
        if "\n" not in text:
            return self._line(text)
        return b"".join(map(self._line, _LINE_BEGINS.split(text)))

    def _line(self, text: str) -> bytes:
        alone, alone_last, behind, behind_last = self._words
        head, space, rest = text.partition(" ")
        if not space:
            return alone_last[head]
        words = rest.split(" ")
        last = words.pop()
        return b"".join(chain((alone[head],), map(behind.__getitem__, words), (behind_last[last],)))


def to_bytes(ids: list[int]) -> bytes:
    """Token ids as 32-bit numbers."""
    return array("i", ids).tobytes()


def _begins_anew_at_spaces(spec: Mapping[str, Any]) -> bool:
    """Whether a tokenizer is one that the rule above holds for."""
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
