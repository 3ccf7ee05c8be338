"""SentencePiece's BPE as the tokenizers library has it: merges from scores, and each family's way with spaces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from smolorad.engine.gguf.vocabulary import TokenType, Vocabulary, is_padding
from smolorad.errors import Damaged

_SPACE = "▁"  # how SentencePiece writes a space
_LONGEST = 512  # characters of a token that merges make; SentencePiece makes none of more than 16, and runs of spaces
_MOST_MERGES = 8  # for each token; models have 2
_ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED)
_TAB = "<0x09>"
# The first tokens with spaces of Mistral's vocabulary of 32,000; Llama's differs.
_MISTRAL = {259: _SPACE * 2, 260: _SPACE * 4}

_DECODE = ({"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"})
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}


def spelled(vocabulary: Vocabulary) -> list[str]:
    """The tokens as the model's own tokenizer spells them.

    The converter writes the spaces of Gemma's added tokens as they are in a text, but Gemma finds such tokens behind its
    normalizer, by merges. Versions 1 and 2 have a tab in place of its byte.
    """
    if not is_gemma(vocabulary):
        return vocabulary.tokens
    known = set(vocabulary.tokens)
    tokens = [
        respelled if kind in _ADDED and (respelled := token.replace(" ", _SPACE)) not in known else token
        for token, kind in zip_types(vocabulary)
    ]
    if "\t" not in tokens and _TAB in tokens:
        tokens[tokens.index(_TAB)] = "\t"
    return tokens


def zip_types(vocabulary: Vocabulary) -> Iterator[tuple[str, int]]:
    """Each token with its type."""
    return zip(vocabulary.tokens, vocabulary.types, strict=True)


def is_gemma(vocabulary: Vocabulary) -> bool:
    """Whether it is one of Gemma's tokenizers."""
    return vocabulary.architecture.startswith("gemma") or is_gemma_4(vocabulary)


def is_gemma_4(vocabulary: Vocabulary) -> bool:
    """Whether it is that of Gemma 4, whose files have merges."""
    return "gemma4" in (vocabulary.model, vocabulary.pre)


def shape(vocabulary: Vocabulary) -> dict[str, Any]:
    """The normalizer, the pre-tokenizer and the decoder."""
    if is_gemma(vocabulary):
        split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        return _shape(normalizer=_REPLACE, pre_tokenizer=split)
    if vocabulary.add_space_prefix and _puts_space_everywhere(vocabulary):
        # In front of a text, and of each part of it between two special tokens.
        both = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": _SPACE}, _REPLACE]}
        return _shape(normalizer=both, strip=True)
    scheme = "first" if vocabulary.add_space_prefix else "never"
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}
    return _shape(pre_tokenizer=metaspace, strip=vocabulary.add_space_prefix)


def merges(vocabulary: Vocabulary, tokens: list[str], file: str) -> list[tuple[str, str]]:
    """The merges that SentencePiece's scores mean, in the order that transformers gives them. Raises Damaged."""
    if vocabulary.merges:
        return vocabulary.merges
    scores = _scores(vocabulary)
    known = frozenset(tokens)
    # Both orders are stable: what ties stays as it is in the file.
    best_first = sorted(range(len(tokens)), key=scores.__getitem__, reverse=True)
    made: list[tuple[str, str]] = []
    for _, alike in groupby(best_first, key=scores.__getitem__):
        begin = len(made)
        for index in alike:
            made += _pairs(tokens[index], known)
            if len(made) > _MOST_MERGES * len(tokens):
                raise Damaged(f"{file} has tokens that no model has: too many of them make others; load another file.")
        made[begin:] = sorted(made[begin:], key=_lengths, reverse=True)
    return made


def _pairs(token: str, known: frozenset[str]) -> list[tuple[str, str]]:
    """The pairs of tokens that make this one."""
    if len(token) > _LONGEST:
        return []
    return [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in known and token[at:] in known]


def _lengths(pair: tuple[str, str]) -> tuple[int, int]:
    return len(pair[0]), len(pair[1])


def _scores(vocabulary: Vocabulary) -> list[float]:
    """The scores of the model's own tokenizer: the converter overwrites those of Gemma's added tokens, which are all 0."""
    if not is_gemma(vocabulary):
        return vocabulary.scores
    both = zip(vocabulary.scores, vocabulary.types, strict=True)
    return [score if kind in (TokenType.NORMAL, TokenType.BYTE) else 0.0 for score, kind in both]


def _puts_space_everywhere(vocabulary: Vocabulary) -> bool:
    """Phi-3, and Mistral's first vocabulary; for the others, transformers puts a space in front of a text only."""
    tokens = vocabulary.tokens
    return vocabulary.architecture == "phi3" or (
        len(tokens) > max(_MISTRAL) and all(tokens[index] == token for index, token in _MISTRAL.items())
    )


def _shape(*, normalizer: Any = None, pre_tokenizer: Any = None, strip: bool = False) -> dict[str, Any]:
    decoders = [*_DECODE, _STRIP] if strip else list(_DECODE)
    decoder = {"type": "Sequence", "decoders": decoders}
    return {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder}


def model(vocabulary: Vocabulary) -> dict[str, Any]:
    """What a model of this kind says besides its vocabulary and its merges."""
    unk = vocabulary.named.get("unk_token")
    known = unk is not None and not is_padding(vocabulary.tokens[unk])
    return {"unk_token": vocabulary.tokens[unk] if known and unk is not None else None, "fuse_unk": True, "byte_fallback": True}
