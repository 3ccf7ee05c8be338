"""How many tokens texts have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from smolorad.corpus.foreign import first_line
from smolorad.errors import Damaged


class TokenCounter:
    """Counts with a model's `tokenizer.json`, special tokens left out. Raises Damaged for a file that is no tokenizer."""

    def __init__(self, tokenizer: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises no narrower class
            why = first_line(error)
            raise Damaged(f"{tokenizer} is not a tokenizer ({why}); fetch its model again, or choose another.") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, texts: Sequence[str]) -> int:
        """Tokens of all texts together."""
        return sum(len(found) for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False))
