"""The fields of the formats in use: what a row is made of, what refuses it, and what says that a turn is not trained.

docs/datasets.md has the same as a table. A field that stands in neither is not used, and one note names it.
Formats: OpenAI's fine-tuning; TRL's dataset formats; Alpaca and ShareGPT with LLaMA-Factory's fields; axolotl; ms-swift;
XTuner; torchtune; NeMo; the fields of reasoning models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from smolorad.domain import Shape

# What a file may call a split within its rows.
SPLIT = "split"


class Form(NamedTuple):
    """One way to write a row: the fields that it must have, and those that it may lack."""

    shape: Shape
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        """All fields that become part of the row."""
        return self.needed + self.optional

    def fits(self, fields: Collection[str], shape: Shape | None) -> bool:
        """Whether a row with these fields is of this form, and of this shape where one is wanted."""
        return shape in (None, self.shape) and all(name in fields for name in self.needed)


_SYSTEM = ("system",)
ALPACA_CHAT = Form(Shape.CHAT, ("instruction", "output"), ("input", "system", "history"))
ALPACA_PROMPT = Form(Shape.PROMPT_COMPLETION, ("instruction", "output"), ("input", "system", "history"))
ALPACA_PREFERENCE = Form(Shape.PREFERENCE, ("instruction", "chosen", "rejected"), ("input", "system", "history"))
TALK_PREFERENCE = Form(Shape.PREFERENCE, ("conversations", "chosen", "rejected"), _SYSTEM)
# The first form that fits is taken: of a row that has the fields of several the richest.
FORMS: tuple[Form, ...] = (
    Form(Shape.PREFERENCE, ("prompt", "chosen", "rejected"), _SYSTEM),
    TALK_PREFERENCE,
    ALPACA_PREFERENCE,
    Form(Shape.PREFERENCE, ("chosen", "rejected"), _SYSTEM),
    *(Form(Shape.CHAT, (name,), _SYSTEM) for name in ("messages", "conversations", "conversation")),
    ALPACA_CHAT,
    Form(Shape.PROMPT_COMPLETION, ("prompt", "completion"), _SYSTEM),
    ALPACA_PROMPT,
    Form(Shape.TEXT, ("text",)),
)
# Every name that a form knows; those that a row may lack, under any name.
NAMES = tuple(dict.fromkeys(name for form in FORMS for name in form.used))
OPTIONAL = tuple(name for name in NAMES if not any(name in form.needed for form in FORMS))

_MEDIA = "has media in {0!r}, and smolora trains on text alone; remove the row, or the field where its text stands for itself"
_TOOLS = "defines tools in {0!r}, which the model would not be shown; write them into the system prompt, or remove the row"
_CALLS = "calls a tool in {0!r}, and of a row only its text is kept; write the call as text, or remove the row"
_UNPAIRED = (
    "has {0!r}, as unpaired preferences (KTO) have, and good and bad answers alike would be learned; keep the good rows and "
    "remove the field, or pair them as 'chosen' and 'rejected'"
)
_MEDIA_NAMES = ("image", "images", "video", "videos", "audio", "audios")
# What refuses a row of prompts or turns unless it is empty, with the reason. Rows of plain text are what their text is.
REFUSED: Mapping[str, str] = (
    {name: _MEDIA for name in _MEDIA_NAMES}
    | {name: _TOOLS for name in ("tools", "functions")}
    | {name: _CALLS for name in ("tool_calls", "function_call")}
    | {
        "kto_tag": _UNPAIRED,
        "label": _UNPAIRED,
        "history": "has earlier turns in {0!r}, which is read beside 'instruction' alone; write them as 'messages'",
        "chat_template_kwargs": "has {0!r}, which the chat template would not be given; remove the field, or the row",
        "weight": "has a {0!r} of its own, and all rows count alike here; remove the field, or the row",
        "mask": "masks in {0!r} who speaks, and here all but the assistant is masked; mark turns with 'weight': 0 in its place",
    }
)
_IN_CONTENT = (
    "write it into the turn's content as the model's chat template has it, such as <think>…</think>, or remove the row"
)
# The same of a turn.
REFUSED_OF_TURNS: Mapping[str, str] = (
    {name: "has media in {0!r} of {1}, and smolora trains on text alone; remove the row" for name in _MEDIA_NAMES}
    | {name: f"has reasoning in {{0!r}} of {{1}}; {_IN_CONTENT}" for name in ("reasoning_content", "reasoning", "thinking")}
    | {
        name: "calls a tool in {1}, and of a turn only its text is kept; write the call as text, or remove the row"
        for name in ("tool_calls", "function_call")
    }
    | {name: "defines tools in {0!r} of {1}; write them as text, or remove the row" for name in ("tools", "functions")}
    | {
        "refusal": "refuses in {0!r} of {1}; write it as the turn's content, or remove the row",
        "train_detail": "has {0!r} in {1}, and a turn is trained whole or not at all; mark it with 'weight': 0 instead",
    }
)
# What says whether a turn is trained: True where 1 and true mean that it is.
MARKS: Mapping[str, bool] = {
    "weight": True,  # OpenAI, Mistral, Together, Fireworks
    "train": True,  # axolotl
    "training": True,
    "trainable": True,
    "loss": True,  # ms-swift, XTuner
    "loss_scale": True,
    "loss_weight": True,
    "loss_mask": True,
    "masked": False,  # torchtune
    "mask": False,
}


def is_empty(value: Any) -> bool:
    """Whether a field says nothing: null, NaN, blanks, an empty list or object, or one of these; also as text."""
    match value:
        case None:
            return True
        case float():
            return math.isnan(value)
        case str():
            return value.strip() in ("", "[]", "{}", "null")
        case list() | tuple():
            return all(map(is_empty, value))
        case dict():
            return all(map(is_empty, value.values()))
    return False


def refusal(name: str, value: Any, shape: Shape) -> str | None:
    """Why a row of this shape may not have this value in a field of `REFUSED`; None where it may."""
    if shape is Shape.TEXT or is_empty(value):
        return None
    match name:
        case "label" | "kto_tag" if shape is Shape.PREFERENCE:
            return None
        case "label" if not (
            isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))
        ):
            return None  # a class, as datasets of other tasks have
        case "weight" if _number(value) in (None, 1):
            return None
        case "mask" if isinstance(value, str) and value.strip().lower() in ("user", "human"):
            return None
    return REFUSED[name]


def _number(value: Any) -> float | None:
    """The number that a field has, also as a table's text; None where it has none."""
    try:
        number = float(value) if isinstance(value, int | float | str | Decimal) else math.nan
    except OverflowError:
        return math.inf
    except ValueError:
        return None
    return None if math.isnan(number) else number


def switch(value: Any) -> bool | None:
    """What a mark says: 1 and true are True, 0 and false False; None for any other value."""
    return bool(value) if isinstance(value, bool | int | float | Decimal) and value in (0, 1) else None


def fitting(fields: Collection[str], shape: Shape | None, named: Collection[str]) -> Form | None:
    """The form that a row with these fields is written in, of this shape where one is wanted; None where there is none.

    `named` are the names that the user gave to fields: a form that uses all of them comes first.
    """
    forms = [form for form in FORMS if form.fits(fields, shape)]
    return next((form for form in forms if set(named) <= set(form.used)), forms[0] if forms else None)


def listed(text: str) -> Any:
    """The list that a table has as JSON text; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
