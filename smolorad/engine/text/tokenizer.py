"""The methods of transformers' fast tokenizers that serving needs, with the tokenizers library alone.

Each method has the name and the result of `transformers.PreTrainedTokenizerFast`'s. Making a model's blueprint checks that they
agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.turns import Turn


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's token ids."""

    input_ids: list[int]


class ServingTokenizer:
    """A tokenizer that encodes, decodes and renders conversations."""

    def __init__(self, description: bytes, chat_template: str | None, special: Mapping[str, str]) -> None:
        """`description`: the content of a tokenizer.json. `special`: `bos_token` and the like, for the chat template."""
        self.backend_tokenizer = Tokenizer.from_buffer(description)
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        self.chat_template = chat_template
        self.special_tokens_map = special
        self._template: ChatTemplate | None = None

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __call__(self, text: str, **unused: Any) -> Encoded:
        return Encoded(self.encode(text))

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The tokens added to the vocabulary, by id; `special` marks those that are not text."""
        found: dict[int, Any] = self.backend_tokenizer.get_added_tokens_decoder()
        return found

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        ids: list[int] = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        text: str = self.backend_tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def convert_ids_to_tokens(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None for an id beyond it."""
        token: str | None = self.backend_tokenizer.id_to_token(token_id)
        return token

    def apply_chat_template(self, conversation: Sequence[Mapping[str, str]], **unused: Any) -> dict[str, list[int]]:
        """A conversation's `input_ids` up to its answer; raises jinja2's TemplateError where the template refuses it."""
        try:
            if self._template is None:
                self._template = ChatTemplate(self.chat_template or "", self.special_tokens_map)
            turns = tuple(Turn(message["role"], message["content"]) for message in conversation)
            text = self._template.render(turns, open_for_answer=True)
        except TemplateRefuses as error:
            raise TemplateError(str(error)) from error
        return {"input_ids": self.encode(text, add_special_tokens=False)}
