"""Turns of a conversation from what files have: OpenAI's `role` and `content`, ShareGPT's `from` and `value`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from smolora.common.text.jsonl import kind_of
from smolorad.chat.turns import Turn, Turns
from smolorad.corpus.fields import MARKS, REFUSED_OF_TURNS, is_empty, listed, switch
from smolorad.corpus.unfit import Unfit

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"} | {
    role: role for role in ("system", "tool", "developer")
}
_PLAIN = ("role", "content")
_READ = frozenset({*_PLAIN, "from", "value", *MARKS, *REFUSED_OF_TURNS})
_TEXT_PART = frozenset({"type", "text"})

NotUsed = Callable[[str], None]  # receives the name of a field that is not used


def turns_of(value: Any, name: str, not_used: NotUsed) -> Turns:
    """The turns that a field has, also as JSON within a table's text, or a single one. Raises Unfit for what is none."""
    if isinstance(value, str):
        text, value = value, listed(value)
        if isinstance(value, str):
            raise Unfit(f"has text in {name!r}, not a list of turns; write turns with role and content", text=text)
    if isinstance(value, dict):
        value = _rows_of(value, name) if all(isinstance(column, list) for column in value.values()) else [value]
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind_of(value)
        raise Unfit(f"has {what} in {name!r}, not turns; write a list of turns with role and content, or remove the row")
    return tuple([_turn(turn, name, number, not_used) for number, turn in enumerate(value, 1)])


def _rows_of(columns: dict[str, list[Any]], name: str) -> list[dict[str, Any]]:
    """Turns as `datasets` before version 4 keeps them: a list of roles and one of contents."""
    if len({len(column) for column in columns.values()}) > 1:
        raise Unfit(f"has lists of different lengths in {name!r}; give every turn a role and a content")
    return [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]


def _turn(turn: Any, name: str, number: int, not_used: NotUsed) -> Turn:
    if not isinstance(turn, dict):
        raise Unfit(f"has {kind_of(turn)} as turn {number} of {name!r}; write an object with role and content")
    role, content = turn.get("role"), turn.get("content")
    if role is None:
        role = turn.get("from")
    if content is None:
        content = turn.get("value")
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        place = f"turn {number} of {name!r}"
        raise Unfit(f"has {json.dumps(role, default=str)[:40]} as the role of {place}; write system, user, assistant or tool")
    plain = len(turn) == len(_PLAIN) and content is not None
    trained = plain or _is_trained(turn, known, f"turn {number} of {name!r}", not_used)
    if not isinstance(content, str):
        content = _joined(content, f"turn {number} of {name!r}", not_used)
    return Turn(known, content, trained)


def _is_trained(turn: dict[str, Any], role: str, place: str, not_used: NotUsed) -> bool:
    """Whether a turn is trained, by its marks. Raises Unfit for fields that cannot be used."""
    trained: bool | None = None
    for name, value in turn.items():
        if name in _PLAIN or is_empty(value):
            continue
        if name in REFUSED_OF_TURNS:
            raise Unfit(REFUSED_OF_TURNS[name].format(name, place))
        if name in MARKS:
            said = _marked(name, value, place)
            if trained not in (None, said):
                raise Unfit(f"has marks in {place} that contradict each other; keep one of {', '.join(MARKS)}")
            trained = said
        elif (
            name not in _READ
            or (name == "from" and turn.get("role") not in (None, value))
            or (name == "value" and turn.get("content") not in (None, value))
        ):
            not_used(f"{name} of turns")
    if role == "assistant":
        return trained is not False
    if trained:  # no format but axolotl's trains what others say
        not_used("marks of turns that are not the assistant's")
    return True


def _marked(name: str, value: Any, place: str) -> bool:
    said = switch(value)
    if said is None:
        shown = json.dumps(value, default=str)[:40]
        raise Unfit(f"has {shown} as {name!r} of {place}; write 1 for a turn that is trained and 0 for one that is not")
    return said is MARKS[name]


def _joined(content: Any, place: str, not_used: NotUsed) -> str:
    """The text of a turn's parts, as of a model that also sees pictures. Raises Unfit where one is something else."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise Unfit(f"has {kind_of(content)} as the content of {place}, not text; write text, or remove the row")
    return "".join([_part(part, place, not_used) for part in content])


def _part(part: Any, place: str, not_used: NotUsed) -> str:
    if not isinstance(part, dict):
        raise Unfit(f"has {kind_of(part)} as a part of the content of {place}; write text, or remove the row")
    kind, text = part.get("type"), part.get("text")
    if kind not in (None, "text") or (kind is None and not isinstance(text, str)):
        what = f"of the type {json.dumps(kind, default=str)[:40]}" if kind is not None else "without a type"
        raise Unfit(f"has a part {what} in the content of {place}, and only parts of the type \"text\" are read; "
                    "write it as text, or remove the row")  # fmt: skip
    if not isinstance(text, str):
        raise Unfit(f"has {kind_of(text)} as the text of a part of {place}; write text, or remove the row")
    for name, value in part.items():
        if name in _TEXT_PART or is_empty(value):
            continue
        if name in REFUSED_OF_TURNS:
            raise Unfit(REFUSED_OF_TURNS[name].format(name, f"a part of {place}"))
        not_used(f"{name} of parts")
    return text
