"""What a model makes of a row: its tokenizer, its chat template, and the tokens that training adds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from tokenizers import Tokenizer

from smolorad.corpus.foreign import first_line
from smolorad.corpus.words import WordEncoder, to_bytes
from smolorad.errors import Damaged

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_CONTEXT = ("max_position_embeddings", "n_positions")
ID_BYTES = 4


class _Model(TypedDict, total=False):
    type: Any
    dropout: Any
    continuing_subword_prefix: Any
    end_of_word_suffix: Any


class _Spec(TypedDict, total=False):
    """What is read of a `tokenizer.json`: its vocabulary, nearly all of it, is skipped."""

    model: _Model | None
    normalizer: Any
    pre_tokenizer: Any
    added_tokens: Any


class ModelText:
    """A model's folder as far as text goes: `tokenizer.json`, and what lies beside it.

    `special` are its special tokens by name, `template` the source of its chat template or None, `context` how many tokens it
    reads at most, 0 where that is not told, `ends` the tokens that Generate stops at. Raises Damaged for a file that is no
    tokenizer.
    """

    def __init__(self, tokenizer: Path) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer))
            spec = msgspec.json.decode(tokenizer.read_bytes(), type=_Spec)
        except Exception as error:  # the library raises no narrower class
            why = first_line(error)
            raise Damaged(f"{tokenizer} is not a tokenizer ({why}); fetch its model again, or choose another.") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self._encoder = WordEncoder(self.tokenizer, spec)
        folder = tokenizer.parent
        settings = _json(folder / "tokenizer_config.json")
        self.special = {name: text for name in _SPECIAL if (text := _token(settings.get(name)))}
        self.template = _template(folder, settings)
        config = _json(folder / "config.json")
        self.context = next((int(config[name]) for name in _CONTEXT if isinstance(config.get(name), int)), 0)
        self.end = self._id(self.special.get("eos_token"))
        self.ends = self._ends(folder)
        self.head, self.tail = self._around()

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text as 32-bit numbers, without special tokens around them."""
        return self._encoder.encode(list(texts))

    def _id(self, token: str | None) -> bytes:
        found = None if token is None else self.tokenizer.token_to_id(token)
        return b"" if found is None else to_bytes([found])

    def _ends(self, folder: Path) -> tuple[str, ...]:
        """The end-of-text token, and those by which the model ends a turn besides, as Gemma and Phi do."""
        told = _json(folder / "generation_config.json").get("eos_token_id")
        ids = told if isinstance(told, list) else [told]
        tokens = [self.tokenizer.id_to_token(one) for one in ids if isinstance(one, int) and one >= 0]
        return tuple(dict.fromkeys(token for token in (self.special.get("eos_token"), *tokens) if token))

    def _around(self) -> tuple[bytes, bytes]:
        """What the tokenizer puts before and behind every text."""
        bare = self.tokenizer.encode("a", add_special_tokens=False).ids
        full = self.tokenizer.encode("a", add_special_tokens=True).ids
        begin = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
        return to_bytes(full[:begin]), to_bytes(full[begin + len(bare) :])


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _token(value: Any) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the tokenizer's settings, there perhaps one of several."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None
