"""The vocabulary that a GGUF file's metadata describes, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from smolorad.errors import Damaged, UnsupportedModel

T = TypeVar("T")

_PREFIX = "tokenizer.ggml."
_PADDING = re.compile(r"\[PAD\d+\]")  # what the converter calls the ids that the model has and the tokenizer has not
_MOST_TOKENS = 2**22
_LONGEST = 4096  # characters of a token; those of models have at most a few hundred
# The tokens that transformers names, by the key of their id; `seperator` is the format's own spelling.
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
# Keys of ids that end an answer, besides `eos_token_id`.
_ENDS = ("eot_token_id", "eom_token_id")
# SentencePiece's own ids, which old files leave out.
_SENTENCEPIECE = {"unk_token": (0, "<unk>"), "bos_token": (1, "<s>"), "eos_token": (2, "</s>")}


class TokenType(IntEnum):
    """What a token is, as GGUF has it."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a file, by id, and what it says of them."""

    model: str
    pre: str
    architecture: str
    tokens: list[str]
    types: list[int]
    scores: list[float]  # empty where the file has none
    merges: list[tuple[str, str]]  # empty where the file has none
    named: Mapping[str, int]  # ids by transformers' names
    ends: tuple[int, ...]  # further ids that end an answer
    add_bos: bool | None
    add_eos: bool
    add_space_prefix: bool


class Fields:
    """The metadata, with a check of each value's type. Errors begin with the file's name."""

    def __init__(self, metadata: Mapping[str, Any], file: str) -> None:
        self._metadata = metadata
        self._file = file

    def damaged(self, what: str) -> Damaged:
        """An error about the file."""
        return Damaged(f"{self._file} {what}; download the file again, or take another one of the same model.")

    def one(self, key: str, kind: type[T]) -> T | None:
        """A value; None where the file has none."""
        value = self._metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.damaged(f"has a {type(value).__name__} as `{key}`, where a {kind.__name__} belongs")
        if isinstance(value, str) and not _is_unicode(value):
            raise self.damaged(f"has no valid text as `{key}`")
        return value

    def many(self, key: str, *kinds: type) -> list[Any] | None:
        """A list; None where the file has none."""
        value = self._metadata.get(key)
        if value is None:
            return None
        # Looked at by type and not by `isinstance`, so that a bool is no number.
        if not isinstance(value, list) or not set(map(type, value)) <= set(kinds):
            raise self.damaged(f"has something else than a list of {kinds[0].__name__} as `{key}`")
        if str in kinds and not _is_unicode("".join(value)):
            raise self.damaged(f"has no valid text in `{key}`")
        return value

    def token_id(self, key: str, tokens: int) -> int | None:
        """The id of a token; None where the file has none."""
        found = self.one(_PREFIX + key, int)
        if found is not None and not 0 <= found < tokens:
            raise self.damaged(f"has {found} as `{_PREFIX}{key}`, and {tokens:,} tokens only")
        return found


def read_vocabulary(metadata: Mapping[str, Any], file: str) -> Vocabulary:
    """The vocabulary of the file called `file`. Raises Damaged."""
    fields = Fields(metadata, file)
    model = fields.one(f"{_PREFIX}model", str)
    if model is None:
        raise fields.damaged(f"has no tokenizer (`{_PREFIX}model`)")
    tokens = _tokens(fields)
    types = _as_long(fields, "token_type", tokens, TokenType.NORMAL, int)
    named = {name: found for name, key in _NAMED.items() if (found := fields.token_id(key, len(tokens))) is not None}
    if model == "llama":
        for name, (token_id, token) in _SENTENCEPIECE.items():
            if name not in named and tokens[token_id : token_id + 1] == [token]:
                named[name] = token_id
    ends = tuple(found for key in _ENDS if (found := fields.token_id(key, len(tokens))) is not None)
    scores = _as_long(fields, "scores", tokens, 0.0, float, int)
    if not all(map(math.isfinite, scores)):
        raise fields.damaged(f"has a score in `{_PREFIX}scores` that is no number")
    whole = _without_padding(tokens, types, max((*named.values(), *ends), default=-1) + 1)
    prefix = fields.one(f"{_PREFIX}add_space_prefix", bool)
    if fields.one(f"{_PREFIX}remove_extra_whitespaces", bool) and model == "llama":
        raise UnsupportedModel(
            f"{file} has a tokenizer that removes spaces (`{_PREFIX}remove_extra_whitespaces`), which smolora does not read "
            "from GGUF; load the model that it was made from."
        )
    return Vocabulary(
        model=model,
        pre=fields.one(f"{_PREFIX}pre", str) or "",
        architecture=fields.one("general.architecture", str) or "",
        tokens=tokens[:whole],
        types=types[:whole],
        scores=scores[:whole],
        merges=_merges(fields, tokens),
        named=named,
        ends=ends,
        add_bos=fields.one(f"{_PREFIX}add_bos_token", bool),
        add_eos=bool(fields.one(f"{_PREFIX}add_eos_token", bool)),
        add_space_prefix=prefix is not False,
    )


def _tokens(fields: Fields) -> list[str]:
    tokens: list[str] | None = fields.many(f"{_PREFIX}tokens", str)
    if not tokens:
        raise fields.damaged(f"has no tokens (`{_PREFIX}tokens`)")
    if len(tokens) > _MOST_TOKENS:
        raise fields.damaged(f"has {len(tokens):,} tokens; no model has more than {_MOST_TOKENS:,}")
    if (longest := max(map(len, tokens))) > _LONGEST:
        raise fields.damaged(f"has a token of {longest:,} characters; no model has one of more than {_LONGEST:,}")
    # An empty token would be found everywhere; llama.cpp gives it the same name.
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if (first := ids.setdefault(token, index)) != index:
            raise fields.damaged(f"has the token {_short(token)} twice, as {first} and {index}")
    return tokens


def _as_long(fields: Fields, key: str, tokens: list[str], default: Any, *kinds: type) -> list[Any]:
    """A list with one value for each token."""
    found = fields.many(_PREFIX + key, *kinds)
    if found is None:
        return [default] * len(tokens)
    if len(found) != len(tokens):
        raise fields.damaged(f"has {len(tokens):,} tokens and {len(found):,} values in `{_PREFIX}{key}`")
    return found


def _merges(fields: Fields, tokens: list[str]) -> list[tuple[str, str]]:
    """The pairs that BPE joins, which the file keeps with a space between; a token may begin with one."""
    known = set(tokens)
    merges = []
    for text in fields.many(f"{_PREFIX}merges", str) or ():
        at = text.find(" ", 1)
        left, right = text[:at], text[at + 1 :]
        if at < 0 or left not in known or right not in known or left + right not in known:
            raise fields.damaged(f"joins {_short(text)} in `{_PREFIX}merges`, and does not have all of these tokens")
        merges.append((left, right))
    return merges


def _without_padding(tokens: list[str], types: list[int], at_least: int) -> int:
    """How many tokens there are without the padding at the end, which the model's own tokenizer does not have."""
    count = len(tokens)
    while count > at_least and types[count - 1] not in (TokenType.NORMAL, TokenType.CONTROL) and is_padding(tokens[count - 1]):
        count -= 1
    return count


def is_padding(token: str) -> bool:
    """Whether the converter made this token up for an id that has none."""
    return _PADDING.fullmatch(token) is not None


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which no file may have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")
