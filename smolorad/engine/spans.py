"""Which part of a conversation the assistant says, also where a chat template does not mark it.

Transformers finds it where a template has `{% generation %}` marks, and most templates have none. Without them a turn is what
the conversation up to it has more than the conversation before it, opened for an answer: exactly what Generate would produce.
Where a template writes earlier turns differently once later ones follow, the turn's own words are looked for instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from smolorad.errors import BadData

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")

Message = Mapping[str, Any]


def tokens_and_answers(tokenizer: Any, messages: Sequence[Message], first: int = 0) -> tuple[list[int], list[bool]]:
    """A conversation's token ids, and for each whether the assistant says it, in message `first` or later.

    The token that ends an answer belongs to it. Raises BadData where the template refuses the conversation.
    """
    if first == 0 and _MARKS.search(tokenizer.chat_template):
        marked = rendered(tokenizer, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return list(marked["input_ids"]), [bool(mask) for mask in marked["assistant_masks"]]
    text: str = rendered(tokenizer, messages, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    answered = [False] * len(ids)
    for begin, end in _spans(tokenizer, messages, text, first):
        # A token that reaches over the beginning holds a part of the answer.
        inside = [place for place, (start, stop) in enumerate(offsets) if start < end and stop > begin and stop > start]
        for place in _to_its_end(inside, ids, offsets, text, special):
            answered[place] = True
    return list(ids), answered


def rendered(tokenizer: Any, messages: Sequence[Message], **how: Any) -> Any:
    """What the chat template makes of a conversation; raises BadData where it refuses it."""
    conversation = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        return tokenizer.apply_chat_template(conversation, **how)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadData(f"The model's chat template refuses a conversation of the dataset: {error}.") from error


def _spans(tokenizer: Any, messages: Sequence[Message], text: str, first: int) -> Iterator[tuple[int, int]]:
    """Where the assistant's turns begin and end in the text, in characters."""
    cursor = 0
    for number, message in enumerate(messages):
        words = str(message.get("content") or "").strip()
        # An empty turn teaches to say nothing.
        speaks = message["role"] == "assistant" and bool(words or message.get("tool_calls"))
        span = _by_difference(tokenizer, messages, number, text) if speaks else None
        span = span or _by_words(words, text, cursor)
        if span is not None:
            cursor = span[1]
            if speaks and number >= first:
                yield span


def _by_difference(tokenizer: Any, messages: Sequence[Message], number: int, text: str) -> tuple[int, int] | None:
    if number == 0:  # transformers renders no empty conversation
        return None
    try:
        before: str = rendered(tokenizer, messages[:number], tokenize=False, add_generation_prompt=True)
        after: str = rendered(tokenizer, messages[: number + 1], tokenize=False)
    except BadData:  # a template that wants a question first, or a whole conversation
        return None
    return (len(before), len(after)) if after.startswith(before) and text.startswith(after) else None


def _by_words(words: str, text: str, cursor: int) -> tuple[int, int] | None:
    begin = text.find(words, cursor) if words else -1
    return None if begin < 0 else (begin, begin + len(words))


def _to_its_end(
    inside: Sequence[int], ids: Sequence[int], offsets: Sequence[tuple[int, int]], text: str, special: set[int]
) -> Sequence[int]:
    """The tokens of a turn up to the one that ends it, which may stand right after the words; no line break behind it."""
    if not inside:
        return inside
    last = next((place for place in reversed(inside) if ids[place] in special), None)
    if last is not None and not text[offsets[last][1] : offsets[inside[-1]][1]].strip():
        return [place for place in inside if place <= last]
    after = inside[-1] + 1
    return [*inside, after] if after < len(ids) and ids[after] in special else inside
