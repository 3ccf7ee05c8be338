"""Token ids to text, a piece at a time: only whole characters, and no piece that a later token would change."""

from __future__ import annotations

import codecs
import re
from typing import Any

from smolorad.engine.text.vocabulary import Vocabulary

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one generation. All pieces joined equal `tokenizer.decode(ids, skip_special_tokens=True)`.

    Only the tokens since the last piece are decoded again, after those of the last piece itself: a decoder may treat the first
    token of a text in its own way (most drop its leading space), so each piece is decoded as the continuation of another.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._before: list[int] = []  # the tokens of the last piece
        self._before_text = ""
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        token = None if token_id in self._special else self._tokenizer.convert_ids_to_tokens(token_id)
        if not token:
            return ""  # special, or an id beyond the vocabulary: decoding skips it
        self._pending.append(token_id)
        # A run of byte tokens is decoded as a whole: one bad byte at its end makes every byte before it unreadable.
        if _BYTE_TOKEN.fullmatch(token):
            return ""
        text = self._decode(self._before + self._pending)
        if text.endswith(_INCOMPLETE):
            return ""
        return self._commit(text)

    def flush(self) -> str:
        """The remaining text, at the end of the generation."""
        return self._commit(self._decode(self._before + self._pending)) if self._pending else ""

    def _commit(self, text: str) -> str:
        piece = text[len(self._before_text) :]
        self._before, self._pending = self._pending, []
        self._before_text = self._decode(self._before)
        return piece

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class ByteDetokenizer:
    """The text of one generation with a grammar: the bytes of its tokens, as the grammar's parser counts them.

    A tokenizer's decoder may drop a leading space, or tidy spaces before punctuation; its text need not match the grammar.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        if self._vocabulary.ll_tokenizer.is_special_token(token_id):  # the end, which the grammar allows where it is complete
            return ""
        return self._decoder.decode(self._vocabulary.bytes_of(token_id))

    def flush(self) -> str:
        """The remaining text, at the end of the generation."""
        return self._decoder.decode(b"", final=True)
