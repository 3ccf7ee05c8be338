"""A row's values from a record's fields, by the names that TRL, Alpaca and ShareGPT give them.

Formats: TRL's dataset formats (huggingface.co/docs/trl/dataset_formats); Alpaca's `instruction`, `input`, `output`
(github.com/tatsu-lab/stanford_alpaca); ShareGPT's `conversations` of `from` and `value`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smolora._models import ProblemKind as ClientKind
from smolora._text.jsonl import kind_of
from smolorad.chat.turns import Turn, Turns, Value
from smolorad.domain import Shape

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"} | {
    role: role for role in ("system", "tool", "developer")
}
CONVERSATIONS = ("messages", "conversations", "conversation")
_SAME = "has the same answer in 'chosen' and 'rejected'; remove the row"
# The prompt that Alpaca's authors trained with, without and with an input.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
)


class Unfit(Exception):
    """Why a record is no row."""

    def __init__(self, why: str, kind: ClientKind = ClientKind.MALFORMED, text: str = "") -> None:
        super().__init__(why)
        self.kind = kind
        self.text = text


def _text(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    text = fields["text"]
    if not isinstance(text, str):
        mend = "make the column one of strings" if isinstance(text, bytes) else "put it in quotes or remove the row"
        raise Unfit(f"has {kind_of(text)} in {text_field!r}, not text; {mend}")
    return (text.strip(),)


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise Unfit(f"has {kind_of(value)} in {name!r}, not text; write text, or remove the row")
    return value


def _prompt_completion(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    if "completion" not in fields:
        instruction, given = _string(fields, "instruction"), fields.get("input") or ""
        prompt = _ALPACA[bool(given)].format(instruction=instruction, input=given)
        return prompt, _not_empty(_string(fields, "output"), "output", prompt)
    prompt = _string(fields, "prompt")
    return prompt, _not_empty(_string(fields, "completion"), "completion", prompt)


def _not_empty(text: str, name: str, prompt: str) -> str:
    if text.strip():
        return text
    raise Unfit(
        f"has nothing in {name!r}, so there is nothing to learn; write the answer or remove the row",
        ClientKind.EMPTY_COMPLETION,
        prompt,
    )


def _chat(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    name = next((name for name in CONVERSATIONS if name in fields), None)
    if name is None:
        given = fields.get("input") or ""
        asked = _string(fields, "instruction") + (f"\n\n{given}" if given else "")
        return ((Turn("user", asked), Turn("assistant", _not_empty(_string(fields, "output"), "output", asked))),)
    turns = _turns(fields[name], name)
    if isinstance(system := fields.get("system"), str) and system.strip() and turns[0].role != "system":
        turns = (Turn("system", system), *turns)
    if not any(turn.role == "assistant" and turn.content.strip() for turn in turns):
        raise Unfit(
            "has no turn of the assistant that says something, so there is nothing to learn; add the answer or remove the row",
            ClientKind.EMPTY_COMPLETION,
            turns[0].content,
        )
    return (turns,)


def _turns(value: Any, name: str) -> Turns:
    """Turns of `role` and `content`, or of ShareGPT's `from` and `value`; also as JSON within a table's text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unfit(f"has text in {name!r}, not a list of turns; write turns with role and content", text=value) from None
    if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
        # Turns as `datasets` before version 4 keeps them: a list of roles and one of contents.
        value = [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)]
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind_of(value)
        raise Unfit(f"has {what} in {name!r}, not turns; write a list of turns with role and content, or remove the row")
    return tuple(_turn(turn, name, number) for number, turn in enumerate(value, 1))


def _turn(turn: Any, name: str, number: int) -> Turn:
    place = f"turn {number} of {name!r}"
    if not isinstance(turn, dict):
        raise Unfit(f"has {kind_of(turn)} as {place}; write an object with role and content")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise Unfit(f"has {json.dumps(role)[:40]} as the role of {place}; write system, user, assistant or tool")
    if turn.get("tool_calls"):
        raise Unfit(f"calls a tool in {place}, and of a turn only its text is kept; write the call as text, or remove the row")
    if isinstance(content, list):  # parts, as of a model that also sees pictures
        content = _joined(content)
    if not isinstance(content, str):
        raise Unfit(f"has {kind_of(content)} as the content of {place}, not text; write text, or remove the row")
    return Turn(_ROLES[role.lower()], content)


def _joined(parts: list[Any]) -> str | None:
    """The text of a turn's parts; None where one is something else."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None for part in parts]
    return "".join(text for text in texts if text is not None) if all(isinstance(text, str) for text in texts) else None


def _preference(fields: Mapping[str, Any], text_field: str) -> tuple[Value, ...]:
    chosen, rejected, prompt = fields["chosen"], fields["rejected"], fields.get("prompt")
    if chosen == rejected and chosen:
        raise Unfit(_SAME, ClientKind.EMPTY_COMPLETION, str(prompt or chosen))
    if isinstance(chosen, list) or isinstance(rejected, list):
        better, worse = _turns(chosen, "chosen"), _turns(rejected, "rejected")
        if isinstance(prompt, list):
            return _differing(_turns(prompt, "prompt"), better, worse)
        # UltraFeedback and others repeat the prompt in both answers.
        common = _common(better, worse)
        if isinstance(prompt, str) and not common:
            return _differing((Turn("user", prompt),), better, worse)
        return _differing(better[:common], better[common:], worse[common:])
    good, bad = _string(fields, "chosen"), _string(fields, "rejected")
    if prompt is not None:
        return _differing(_string(fields, "prompt"), good, bad)
    common = _common(good, bad)
    while common > 0 and not good[common - 1].isspace():  # whole words
        common -= 1
    return _differing(good[:common], good[common:], bad[common:])


def _differing(prompt: Value, chosen: Value, rejected: Value) -> tuple[Value, ...]:
    text = prompt if isinstance(prompt, str) else " ".join(turn.content for turn in prompt)
    if not prompt:
        raise Unfit("has no prompt: 'chosen' and 'rejected' begin differently; write it into 'prompt'", text=text)
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        said = value if isinstance(value, str) else "".join(turn.content for turn in value)
        if not said.strip():
            raise Unfit(
                f"has no answer in {name!r}, so there is nothing to learn; write it or remove the row",
                ClientKind.EMPTY_COMPLETION,
                text,
            )
    if chosen == rejected:
        raise Unfit(_SAME, ClientKind.EMPTY_COMPLETION, text)
    return prompt, chosen, rejected


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many of the first elements are equal."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


# From the fields, and the name that the user gave the text's, to the values in the order of the shape's columns; raise Unfit.
MAKERS: Mapping[Shape, Callable[[Mapping[str, Any], str], tuple[Value, ...]]] = {
    Shape.TEXT: _text,
    Shape.PROMPT_COMPLETION: _prompt_completion,
    Shape.CHAT: _chat,
    Shape.PREFERENCE: _preference,
}
