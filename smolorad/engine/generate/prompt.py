"""From a prompt or a conversation to token ids, and back."""

from __future__ import annotations

from collections.abc import Sequence

from smolorad.chat.model import ModelText
from smolorad.chat.template import ChatTemplate, TemplateRefuses, source_of
from smolorad.chat.turns import Turn, Turns
from smolorad.domain import ChatMessage
from smolorad.engine.model.base_model import BaseModel
from smolorad.errors import InvalidRequest, PromptTooLong, UnsupportedModel

# Tokenising keeps the only thread busy, and no context is so long that more than this would fit.
PROMPT_LIMIT_BYTES = 2**20


def encode(base: BaseModel, prompt: str, messages: Sequence[ChatMessage], *, parse_special: bool = False) -> list[int]:
    """The token ids of a prompt, or of a conversation rendered by the model's chat template and open for the model's turn.

    The spelling of a control token in a prompt or a message is text, unless `parse_special`.
    Raises InvalidRequest unless exactly one of the two is given, PromptTooLong above the limit in bytes, UnsupportedModel where
    the model has no chat template.
    """
    if bool(prompt) == bool(messages):
        raise InvalidRequest.field("prompt", "give either a prompt that is not empty or messages, not both")
    size = len(prompt.encode()) + sum(len(message.content.encode()) for message in messages)
    if size > PROMPT_LIMIT_BYTES:
        raise PromptTooLong(f"The prompt has {size:,} bytes, and {PROMPT_LIMIT_BYTES:,} is the limit; shorten it.")
    text = base.text if base.text is not None else _Foreign(base)
    ids = _conversation(base, text, messages, parse_special) if messages else text.prompt(prompt, parse_special=parse_special)
    if not ids:
        raise InvalidRequest.field("prompt", "encodes to zero tokens; enter some text")
    known = base.embeddings
    if (strange := next((token for token in ids if token >= known), None)) is not None:
        raise InvalidRequest.field(
            "messages" if messages else "prompt",
            f"has {base.tokenizer.convert_ids_to_tokens(strange)!r}, for which {base.name} has no embedding; leave it out",
        )
    return ids


def decode(base: BaseModel, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
    """The text of token ids; raises InvalidRequest for one that the model does not know."""
    most = len(base.tokenizer)
    if (unknown := next((token for token in token_ids if not 0 <= token < most), None)) is not None:
        raise InvalidRequest.field("token_ids", f"have {unknown}, but must be at least 0 and below {most:,}")
    text: str = base.tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
    return text


def max_new_tokens(base: BaseModel, prompt_tokens: int, max_tokens: int) -> int:
    """`max_tokens`, or what the context leaves where that is less; raises PromptTooLong if it leaves nothing."""
    left = base.context_length - prompt_tokens
    if left < 1:
        raise PromptTooLong(
            f"The prompt has {prompt_tokens:,} tokens, and the context of {base.name} has room for {base.context_length:,}, "
            f"prompt and answer together; shorten it to at most {base.context_length - 1:,}."
        )
    return min(max_tokens, left)


def _conversation(
    base: BaseModel, text: ModelText | _Foreign, messages: Sequence[ChatMessage], parse_special: bool
) -> list[int]:
    if not base.tokenizer.chat_template:
        raise UnsupportedModel(f"{base.name} has no chat template; give a prompt instead of messages (without `--chat`).")
    turns = tuple(Turn(message.role, message.content) for message in messages)
    if isinstance(text, ModelText) and not parse_special and any(text.control.within(turn.role) for turn in turns):
        raise InvalidRequest.field("messages", "has the spelling of a control token as a role; name one, such as user")
    try:
        return text.conversation(turns, parse_special=parse_special)
    except TemplateRefuses as error:
        raise InvalidRequest.field("messages", f"the model's chat template refuses them: {error}") from error


class _Foreign:
    """Encodes with a tokenizer that is not one of the tokenizers library: it cannot read a control token's spelling as text."""

    def __init__(self, base: BaseModel) -> None:
        self._tokenizer = base.tokenizer

    def prompt(self, text: str, *, parse_special: bool) -> list[int]:
        """As ModelText.prompt; raises InvalidRequest."""
        self._check("prompt", text, parse_special)
        ids: list[int] = self._tokenizer(text, verbose=False).input_ids
        return ids

    def conversation(self, turns: Turns, *, parse_special: bool) -> list[int]:
        """As ModelText.conversation; raises InvalidRequest."""
        for turn in turns:
            self._check("messages", f"{turn.role}\n{turn.content}", parse_special)
        special = {name: token for name, token in self._tokenizer.special_tokens_map.items() if isinstance(token, str)}
        # Not by the tokenizer's own method, which has no bounds.
        shown = ChatTemplate(source_of(self._tokenizer.chat_template) or "", special).render(turns, open_for_answer=True)
        ids: list[int] = self._tokenizer(str.__str__(shown), add_special_tokens=False, verbose=False).input_ids
        return ids

    def _check(self, field: str, text: str, parse_special: bool) -> None:
        found = next((token for token in self._tokenizer.all_special_tokens if token in text), None)
        if found is not None and not parse_special:
            why = f"has the spelling of the control token {found!r}, which this model's tokenizer cannot read as text"
            raise InvalidRequest.field(field, f"{why}; leave it out, or set parse_special")
