"""What a model makes of a row: its tokenizer, its chat template, and the tokens that training adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from tokenizers import Tokenizer

from smolora.common.json_file import NotAnObject, read_object
from smolorad.chat import model as chat
from smolorad.chat.encode import TRIAL, Plain
from smolorad.chat.template import source_of
from smolorad.corpus.bpe_cache import WordEncoder
from smolorad.errors import Damaged, first_line, is_panic

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CONTEXT = ("max_position_embeddings", "n_positions")


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


class ModelText(chat.ModelText):
    """A model's folder as far as text goes: `tokenizer.json`, and what lies beside it.

    `context` is how many tokens the model reads at most, 0 where that is unknown. Raises Damaged for a file that is no
    tokenizer.
    """

    def __init__(self, tokenizer: Path) -> None:
        read, encode = _read(tokenizer)
        read.no_truncation()
        read.no_padding()
        folder = tokenizer.parent
        settings = _json(folder / "tokenizer_config.json")
        special = {name: text for name in _SPECIAL if (text := _token(settings.get(name)))}
        ends = _ends(folder, read, special.get("eos_token"))
        super().__init__(read, _template(folder, settings), special, ends, encode)
        config = _json(folder / "config.json")
        self.context = next((int(config[name]) for name in _CONTEXT if isinstance(config.get(name), int)), 0)


def _read(tokenizer: Path) -> tuple[Tokenizer, Plain]:
    """The tokenizer, and what encodes plain texts with it faster; both were tried out."""
    try:
        read = Tokenizer.from_file(str(tokenizer))
        words = WordEncoder(read, msgspec.json.decode(tokenizer.read_bytes(), type=_Spec))
        words.encode([TRIAL])
        read.decode(read.encode(TRIAL).ids)
    except BaseException as error:  # the library raises no narrower class than Exception, and panics
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        why = first_line(error)
        raise Damaged(f"{tokenizer} is not a tokenizer ({why}); fetch its model again, or choose another.") from error
    return read, words.encode


def _ends(folder: Path, tokenizer: Tokenizer, end: str | None) -> Iterator[str]:
    """The end-of-text token, and those by which the model ends a turn besides, as Gemma and Phi do."""
    if end:
        yield end
    for name in ("generation_config.json", "config.json"):  # transformers asks the second where there is no first
        if not (folder / name).is_file():
            continue
        found = _json(folder / name).get("eos_token_id")
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, int) and one >= 0 and (token := tokenizer.id_to_token(one)):
                yield token
        return


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}
    except NotAnObject as error:
        raise Damaged(f"{path} {error}; fetch its model again, or choose another.") from error


def _token(value: Any) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the tokenizer's settings, there perhaps one of several."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise Damaged(f"{file} is not UTF-8; fetch its model again, or choose another.") from error
    return source_of(settings.get("chat_template"))
