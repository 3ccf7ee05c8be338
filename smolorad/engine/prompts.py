"""From a prompt or a conversation to token ids, and back."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError

from smolorad.domain import ChatMessage
from smolorad.engine.base import Base
from smolorad.errors import InvalidRequest, PromptTooLong, UnsupportedModel

# Tokenising is work of the one thread that everybody waits for; no context is so long that more than this would fit.
PROMPT_LIMIT_BYTES = 2**20


def encode(base: Base, prompt: str, messages: Sequence[ChatMessage]) -> list[int]:
    """The token ids of a prompt, or of a conversation put through the model's chat template and open for its answer.

    Raises InvalidRequest unless exactly one of the two is given, PromptTooLong above the limit in bytes, UnsupportedModel where
    the model has no chat template.
    """
    if bool(prompt) == bool(messages):
        raise InvalidRequest.field("prompt", "give either a prompt that is not empty or messages, not both")
    size = len(prompt.encode()) + sum(len(message.content.encode()) for message in messages)
    if size > PROMPT_LIMIT_BYTES:
        raise PromptTooLong(f"The prompt has {size:,} bytes, and {PROMPT_LIMIT_BYTES:,} is the limit; shorten it.")
    ids: list[int] = _render(base, messages) if messages else base.tokenizer(prompt, verbose=False).input_ids
    if not ids:
        raise InvalidRequest.field("prompt", "comes to no tokens at all; write something")
    known = base.embeddings
    if (strange := next((token for token in ids if token >= known), None)) is not None:
        raise InvalidRequest.field(
            "messages" if messages else "prompt",
            f"has {base.tokenizer.convert_ids_to_tokens(strange)!r}, for which {base.name} has no embedding; leave it out",
        )
    return ids


def decode(base: Base, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
    """The text of token ids; raises InvalidRequest for one that the model does not know."""
    most = len(base.tokenizer)
    if (unknown := next((token for token in token_ids if not 0 <= token < most), None)) is not None:
        raise InvalidRequest.field("token_ids", f"hold {unknown}, but must be at least 0 and below {most:,}")
    text: str = base.tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
    return text


def room(base: Base, prompt_tokens: int, max_tokens: int) -> int:
    """How many tokens may be generated: `max_tokens`, or what the context leaves; raises PromptTooLong if that is nothing."""
    left = base.context_length - prompt_tokens
    if left < 1:
        raise PromptTooLong(
            f"The prompt has {prompt_tokens:,} tokens, and the context of {base.name} holds {base.context_length:,} with "
            f"the answer; shorten it to at most {base.context_length - 1:,}."
        )
    return min(max_tokens, left)


def _render(base: Base, messages: Sequence[ChatMessage]) -> list[int]:
    if not base.tokenizer.chat_template:
        raise UnsupportedModel(f"{base.name} has no chat template; give a prompt instead of messages.")
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    try:
        rendered = base.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=True, tokenizer_kwargs={"verbose": False}
        )
    except TemplateError as error:
        raise InvalidRequest.field("messages", f"the model's chat template refuses them: {error}") from error
    ids: list[int] = rendered["input_ids"]
    return ids
