"""The tokens that a tokenizer finds in a text before anything else.

The format has a token's type only. What else the models' own tokenizers say of these tokens is read off the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from smolorad.engine.gguf.sentencepiece import is_gemma
from smolorad.engine.gguf.vocabulary import TokenType, Vocabulary, is_padding

_ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
# The converter takes these for control tokens by their form, and the models' own tokenizers have them as text.
_GEMMA_TEXT = re.compile(r"<unused\d+>|<2mass>|\[@BOS@\]")
_QWEN_TEXT = re.compile(r"<\|(fim_prefix|fim_middle|fim_suffix|fim_pad|repo_name|file_sep)\|>")
_NEVER = re.compile(r"(?!)")
# Which tokens of the Phi models swallow the spaces behind them: those of Phi-3, and of Phi-4 mini.
_PHI_3 = re.compile(r"(?!<unk>|<s>|<\|endoftext\|>).*", re.DOTALL)
_PHI_4_MINI = re.compile(r"<\|(assistant|end|user|system)\|>")
_PHI_4 = "<|im_sep|>"  # Phi-4 alone has it; its tokens swallow the spaces on both sides


def added_tokens(vocabulary: Vocabulary, tokens: list[str], named: Collection[int]) -> list[dict[str, Any]]:
    """The added tokens, as a tokenizer.json has them; `named` are the ids of `bos_token` and the like."""
    text, strips, both_sides = _text(vocabulary), _strips_right(vocabulary), _is_phi_4(vocabulary)
    added = []
    for index, (token, kind) in enumerate(zip(tokens, vocabulary.types, strict=True)):
        if index not in named and not is_added(token, kind):
            continue
        added.append(
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": both_sides,
                "rstrip": both_sides or strips.fullmatch(token) is not None,
                "normalized": False,
                "special": index in named or (kind != TokenType.USER_DEFINED and text.fullmatch(token) is None),
            }
        )
    return added


def is_added(token: str, kind: int) -> bool:
    """Whether a token of this type is no ordinary one."""
    return kind == TokenType.CONTROL or (kind in _ADDED and not is_padding(token))


def _text(vocabulary: Vocabulary) -> re.Pattern[str]:
    """Which tokens are text, though the file has them as control tokens."""
    if is_gemma(vocabulary):
        return _GEMMA_TEXT
    return _QWEN_TEXT if (vocabulary.model, vocabulary.pre) == ("gpt2", "qwen2") else _NEVER


def _strips_right(vocabulary: Vocabulary) -> re.Pattern[str]:
    if vocabulary.architecture != "phi3":
        return _NEVER
    return _PHI_3 if vocabulary.model == "llama" else _PHI_4_MINI


def _is_phi_4(vocabulary: Vocabulary) -> bool:
    return vocabulary.pre == "dbrx" and _PHI_4 in vocabulary.tokens
