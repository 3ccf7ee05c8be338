"""A row's values from a record's fields, by the names that TRL, Alpaca and ShareGPT give them.

Formats: TRL's dataset formats (huggingface.co/docs/trl/dataset_formats); Alpaca's `instruction`, `input`, `output`
(github.com/tatsu-lab/stanford_alpaca); ShareGPT's `conversations` of `from` and `value`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from smolora.common.problems import ProblemKind
from smolora.common.text.jsonl import kind_of
from smolorad.chat.turns import Turn, Turns, Value
from smolorad.corpus.conversations import NotUsed, turns_of
from smolorad.corpus.fields import ALPACA_CHAT, ALPACA_PREFERENCE, ALPACA_PROMPT, TALK_PREFERENCE, Form, is_empty, listed
from smolorad.corpus.unfit import Unfit
from smolorad.domain import Shape

_SAME = "has the same answer in 'chosen' and 'rejected'; remove the row"
_PAIR = 2
_SYSTEM = ("system", "developer")
# The prompt that Alpaca's authors trained with, without and with an input.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
)


class Fields(NamedTuple):
    """A record's fields by their standard names, with the file's own names for them."""

    form: Form
    values: Mapping[str, Any]
    names: Mapping[str, str]
    not_used: NotUsed
    as_turns: bool = False  # whether the rows before were made of text and became turns

    def spelled(self, name: str) -> str:
        """The file's own name of a field."""
        return self.names.get(name, name)

    def string(self, name: str) -> str:
        """The text of a field that a row must have."""
        value = self.values[name]
        if not isinstance(value, str):
            raise Unfit(f"has {kind_of(value)} in {self.spelled(name)!r}, not text; write text, or remove the row")
        return value

    def optional(self, name: str) -> str:
        """The text of a field that a row may lack; empty for null, NaN and blanks."""
        value = self.values.get(name)
        if isinstance(value, str):
            return value if value.strip() else ""
        if is_empty(value):
            return ""
        raise Unfit(f"has {kind_of(value)} in {self.spelled(name)!r}, not text; write text or null, or remove the row")

    def answer(self, name: str, prompt: str) -> str:
        """The text of a field that is learned; not empty."""
        text = self.string(name)
        if text.strip():
            return text
        raise _nothing_to_learn(self.spelled(name), prompt)

    def turns(self, name: str) -> Turns:
        """The turns of a field."""
        return turns_of(self.values[name], self.spelled(name), self.not_used)


def _nothing_to_learn(name: str, prompt: str) -> Unfit:
    why = f"has nothing in {name!r}, so there is nothing to learn; write the answer or remove the row"
    return Unfit(why, ProblemKind.EMPTY_COMPLETION, prompt)


def _text(fields: Fields) -> tuple[Value, ...]:
    text = fields.values["text"]
    if not isinstance(text, str):
        advice = "make the column one of strings" if isinstance(text, bytes) else "put it in quotes or remove the row"
        raise Unfit(f"has {kind_of(text)} in {fields.spelled('text')!r}, not text; {advice}")
    return (text.strip(),)


def _prompt_completion(fields: Fields) -> tuple[Value, ...]:
    """Text, or turns where one of both is a list of them, or where there is a system prompt."""
    given, learned = fields.values["prompt"], fields.values["completion"]
    if not _is_talk(given) and not _is_talk(learned):
        prompt = fields.string("prompt")
        completion = fields.answer("completion", prompt)
        if fields.as_turns or fields.optional("system"):
            return _with_system(fields, (Turn("user", prompt),)), (Turn("assistant", completion),)
        return prompt, completion
    asked = _as_context(fields.turns("prompt")) if _is_talk(given) else (Turn("user", fields.string("prompt")),)
    asked = _with_system(fields, asked)
    if _is_talk(learned):
        return asked, _learnable(_behind(asked, fields.turns("completion")), _said(asked))
    return asked, (Turn("assistant", fields.answer("completion", _said(asked))),)


def _alpaca_prompt(fields: Fields) -> tuple[Value, ...]:
    for name in ("system", "history"):
        if not is_empty(fields.values.get(name)):
            why = f"has {fields.spelled(name)!r}, which Alpaca's prompt has no place for; read such rows with --shape chat"
            raise Unfit(why)
    instruction, given = fields.string("instruction"), fields.optional("input")
    prompt = _ALPACA[bool(given)].format(instruction=instruction, input=given)
    return prompt, fields.answer("output", prompt)


def _alpaca_chat(fields: Fields) -> tuple[Value, ...]:
    asked = _alpaca_asks(fields)
    return ((*asked, Turn("assistant", fields.answer("output", asked[-1].content))),)


def _alpaca_asks(fields: Fields) -> Turns:
    """The turns before Alpaca's answer."""
    given = fields.optional("input")
    asked = fields.string("instruction") + (f"\n\n{given}" if given else "")
    return _with_system(fields, (*_history(fields), Turn("user", asked)))


def _history(fields: Fields) -> Turns:
    """LLaMA-Factory's earlier turns: pairs of question and answer."""
    pairs = fields.values.get("history")
    if isinstance(pairs, str):
        pairs = listed(pairs)
    if is_empty(pairs):
        return ()
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == _PAIR and all(isinstance(text, str) for text in pair) for pair in pairs
    ):
        raise Unfit(f'has no pairs of texts in {fields.spelled("history")!r}; write a list such as [["asked", "answered"]]')
    return tuple(Turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True))


def _chat(fields: Fields) -> tuple[Value, ...]:
    (name,) = fields.form.needed
    return (_learnable(_with_system(fields, fields.turns(name)), ""),)


def _learnable(turns: Turns, prompt: str) -> Turns:
    """The turns, if the assistant says something in them that is trained."""
    said = [turn for turn in turns if turn.role == "assistant" and turn.content.strip()]
    if any(turn.trained for turn in said):
        return turns
    what = (
        "only turns of the assistant that are marked as not trained" if said else "no turn of the assistant that says something"
    )
    raise Unfit(
        f"has {what}, so there is nothing to learn; add the answer or remove the row",
        ProblemKind.EMPTY_COMPLETION,
        prompt or turns[0].content,
    )


def _with_system(fields: Fields, turns: Turns) -> Turns:
    """The turns behind the row's system prompt, if it has one."""
    system = fields.optional("system")
    if not system:
        return turns
    if turns[0].role in _SYSTEM and turns[0].content.strip() == system.strip():
        return turns
    if any(turn.role in _SYSTEM for turn in turns):
        raise Unfit(
            f"has two system prompts, one in {fields.spelled('system')!r} and one among its turns; keep one", text=system
        )
    return (Turn("system", system), *turns)


def _preference(fields: Fields) -> tuple[Value, ...]:
    values = fields.values
    chosen, rejected, prompt = values["chosen"], values["rejected"], values.get("prompt")
    if chosen == rejected and chosen:
        raise Unfit(_SAME, ProblemKind.EMPTY_COMPLETION, str(prompt or chosen))
    if _is_talk(chosen) or _is_talk(rejected) or _is_talk(prompt):
        return _preferred_turns(fields)
    good, bad = fields.string("chosen"), fields.string("rejected")
    if prompt is not None:
        asked = fields.string("prompt")
    else:
        common = _common(good, bad)
        while common > 0 and not good[common - 1].isspace():  # whole words
            common -= 1
        asked, good, bad = good[:common], good[common:], bad[common:]
    if asked and (fields.as_turns or fields.optional("system")):
        turns = _with_system(fields, (Turn("user", asked),))
        return _differing(turns, (Turn("assistant", good),), (Turn("assistant", bad),))
    return _differing(asked, good, bad)


def _preferred_turns(fields: Fields) -> tuple[Value, ...]:
    """What both answers begin with, as UltraFeedback and others have it, or else the prompt that stands before them."""
    better, worse = _answer(fields, "chosen"), _answer(fields, "rejected")
    asks = next((name for name in ("prompt", "conversations", "instruction") if name in fields.form.used), "")
    given = fields.values.get(asks)
    common = 0 if _is_talk(given) else _common([turn[:2] for turn in better], [turn[:2] for turn in worse])
    if common:
        asked = _as_context(better[:common])
        if isinstance(given, str) and given.strip() and not any(turn.content.strip() == given.strip() for turn in asked):
            fields.not_used(fields.spelled(asks))
        asked = _with_system(fields, asked)
    else:
        asked = _asked(fields, asks) if given is not None else ()
        better, worse = _behind(asked, better), _behind(asked, worse)
    return _differing(asked, _pair(better[common:]), _pair(worse[common:]))


def _behind(asked: Turns, answer: Turns) -> Turns:
    """An answer without the prompt that some files repeat before it, with or without its system prompt."""
    without_system = asked[1:] if asked and asked[0].role in _SYSTEM else ()
    for start in (asked, without_system):
        if start and [turn[:2] for turn in answer[: len(start)]] == [turn[:2] for turn in start]:
            return answer[len(start) :]
    return answer


def _asked(fields: Fields, name: str) -> Turns:
    """The turns that two answers have before them."""
    if name == "instruction":
        return _alpaca_asks(fields)
    given = fields.values[name]
    if isinstance(given, str) and name == "prompt":
        return _with_system(fields, (Turn("user", given),)) if given.strip() else ()
    return _with_system(fields, _as_context(fields.turns(name)))


def _answer(fields: Fields, name: str) -> Turns:
    value = fields.values[name]
    return (Turn("assistant", fields.string(name)),) if isinstance(value, str) and not _is_talk(value) else fields.turns(name)


def _pair(answer: Turns) -> Turns:
    """An answer of a pair; its turns are compared whole."""
    if all(turn.trained for turn in answer):
        return answer
    raise Unfit("marks a turn of 'chosen' or 'rejected' as not trained, and two answers are compared whole; remove the mark")


def _differing(prompt: Value, chosen: Value, rejected: Value) -> tuple[Value, ...]:
    text = prompt if isinstance(prompt, str) else " ".join(turn.content for turn in prompt)
    if not prompt:
        raise Unfit("has no prompt: 'chosen' and 'rejected' begin differently; write it into 'prompt'", text=text)
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        said = value if isinstance(value, str) else "".join(turn.content for turn in value)
        if not said.strip():
            raise Unfit(
                f"has no answer in {name!r}, so there is nothing to learn; write it or remove the row",
                ProblemKind.EMPTY_COMPLETION,
                text,
            )
    if chosen == rejected:
        raise Unfit(_SAME, ProblemKind.EMPTY_COMPLETION, text)
    return prompt, chosen, rejected


def _is_talk(value: Any) -> bool:
    """Whether a prompt or an answer is a list of turns, or a single one."""
    return isinstance(value, list | dict)


def _as_context(turns: Turns) -> Turns:
    """Turns that are never trained, even with marks that say so."""
    return tuple([turn if turn.trained else turn._replace(trained=True) for turn in turns])


def _said(turns: Turns) -> str:
    return turns[-1].content


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many of the first elements are equal."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


Maker = Callable[[Fields], tuple[Value, ...]]
_MAKERS: Mapping[Shape, Maker] = {
    Shape.TEXT: _text,
    Shape.PROMPT_COMPLETION: _prompt_completion,
    Shape.CHAT: _chat,
    Shape.PREFERENCE: _preference,
}
_SPECIAL: Mapping[Form, Maker] = {
    ALPACA_CHAT: _alpaca_chat,
    ALPACA_PROMPT: _alpaca_prompt,
    ALPACA_PREFERENCE: _preferred_turns,
    TALK_PREFERENCE: _preferred_turns,
}


def values_of(form: Form, fields: Fields) -> tuple[Value, ...]:
    """The values of a row in the order of its shape's columns. Raises Unfit for a record that is no such row."""
    return _SPECIAL.get(form, _MAKERS[form.shape])(fields)
