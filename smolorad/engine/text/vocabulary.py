"""A tokenizer's entries as bytes, and in llguidance's form."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from smolorad.errors import UnsupportedModel, first_line

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_NO_GRAMMAR = "This model cannot follow a response format, because"


class Vocabulary:
    """The tokens of one model. Everything is computed on first use: most generations need none of it."""

    def __init__(self, tokenizer: Any, end_ids: Iterable[int]) -> None:
        """`end_ids` are the tokens that end an answer."""
        self._tokenizer = tokenizer
        self.end_ids = sorted(end_ids)

    @functools.cached_property
    def ll_tokenizer(self) -> LLTokenizer:
        """llguidance's tokenizer: a tree of bytes; takes about 0.3 s for 49,152 tokens, once.

        Raises UnsupportedModel where llguidance does not know the bytes of each token.
        """
        from llguidance import LLTokenizer  # takes 50 ms to import, and most engines never need it

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UnsupportedModel(
                f"{_NO_GRAMMAR} its tokenizer is not one of the tokenizers library; leave out `response_format`."
            )
        try:
            return LLTokenizer(_plain(backend.to_str()), eos_token=self.end_ids or None)
        except ValueError as error:
            raise UnsupportedModel(
                f"{_NO_GRAMMAR} its tokenizer is of an unknown kind ({first_line(error)}); leave out `response_format`."
            ) from error

    @functools.cached_property
    def special(self) -> dict[int, str]:
        """The special tokens' spellings, which an answer's text leaves out."""
        return {id: token.content for id, token in self._tokenizer.added_tokens_decoder.items() if token.special}

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text, in UTF-8; several tokens may share a character."""
        if self._bytes is None:
            text: str = self._tokenizer.decode([token_id])
            return text.encode()
        return self._bytes.decode_bytes([token_id]) if token_id < self._bytes.vocab_size else b""

    @functools.cached_property
    def _bytes(self) -> LLTokenizer | None:
        try:
            return self.ll_tokenizer
        except UnsupportedModel:
            return None


def _plain(description: str) -> str:
    """A tokenizer's description in JSON, without padding and truncation, and with a decoder that llguidance knows."""
    content: dict[str, Any] = json.loads(description)
    decoder = content.get("decoder") or {}
    if decoder.get("type") == "Metaspace":  # of SentencePiece's unigram models; for a single token these do the same
        space = {"type": "Replace", "pattern": {"String": decoder["replacement"]}, "content": " "}
        decoder = {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    changes = {"padding": None, "truncation": None, "decoder": decoder or None}
    if all(content.get(key) == value for key, value in changes.items()):
        return description  # writing it again takes as long as everything else
    return json.dumps(content | changes, ensure_ascii=False)
