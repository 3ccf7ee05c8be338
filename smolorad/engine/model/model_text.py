"""Makes the text encoder of the loaded model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smolorad.chat.model import ModelText
from smolorad.chat.template import source_of


def make_model_text(tokenizer: Any, end_ids: Iterable[int]) -> ModelText | None:
    """Of a ServingTokenizer, or a tokenizer of transformers; None where it is not one of the tokenizers library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    ends = [tokenizer.convert_ids_to_tokens(one) for one in sorted(end_ids)]
    return ModelText(backend, source_of(tokenizer.chat_template), special, ends)
