"""Finds the parts of a conversation that a model generates, so that it is trained on these alone.

An answer begins where the generation prompt ends, and ends with the token that stops the generation. Between its own characters
and those of the turn before it stands only what the template wrote, and the same stands at the end of the generation prompt: so
the two are compared, and nothing is searched for. Where a template has `{% generation %}` marks, they say which answers are
trained, and from where.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from smolorad.chat.spans import Span, in_common
from smolorad.chat.special import ControlTokens
from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.tracked import TEMPLATE, Tracked, is_marked, without_marks
from smolorad.chat.turns import Turns
from smolorad.chat.twins import training_twin

_STOP = chr(sys.maxunicode)  # no turn's origin


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model reads it, and from where to where in it the model is trained (in characters)."""

    text: Tracked
    spans: tuple[Span, ...]
    unended: bool = False  # whether an answer has no token that stops the generation
    unmarked: bool = False  # whether generation marks leave out an answer's end
    answers: int = 0  # that are to be learned
    excluded: int = 0  # of these, those that the generation marks leave out
    changes: tuple[str, ...] = ()  # how turns read otherwise than they were said or generated


@dataclass(frozen=True, slots=True)
class _Answer:
    """The place of an answer in a rendered conversation."""

    begin: int
    content: Span
    end: int
    stops: bool  # whether it ends in a token that stops the generation
    ends: bool = True  # whether it ends in any control token

    @property
    def place(self) -> slice:
        return slice(self.begin, self.end)


def rendered(
    template: ChatTemplate, turns: Turns, control: ControlTokens, *, first: int = 0, compare: bool = False
) -> Rendered:
    """The conversation, and what is trained of the answers from turn `first` on.

    Where the template leaves out a part of an answer, or its end, and TRL has a training version of that template, the text is
    that one's. `compare` also notes which turns read otherwise than they were said. Raises TemplateRefuses.
    """
    shown = _Conversation(template, template, turns, template.render(turns), control)
    changes = tuple(_changes(shown)) if compare else ()
    wanted = tuple(_trained(turns, first))
    if any(map(shown.lacks, wanted)) and (twin := training_twin(template)) is not None:
        shown = shown.by(twin)
    found = [answer for at in wanted if (answer := shown.answer(at)) is not None]
    kept, unmarked = found, False
    if template.has_marks:
        kept = [marked for answer in found if (marked := _within_marks(answer, shown.whole.origins)) is not None]
        unmarked = any(not is_marked(shown.whole.origins[answer.end - 1]) for answer in kept)
    unended = any(not answer.stops for answer in kept)
    spans = tuple((answer.begin, answer.end) for answer in kept)
    return Rendered(shown.whole, spans, unended, unmarked, len(wanted), len(found) - len(kept), changes)


def _trained(turns: Turns, first: int) -> Iterator[int]:
    """The turns that are answers to learn. An empty one teaches to say nothing."""
    for at, turn in enumerate(turns):
        if at >= first and turn.role == "assistant" and turn.trained and turn.content.strip():
            yield at


class _Conversation:
    """A rendered conversation, with a cache of what is found in it: rendering is slow."""

    def __init__(
        self, template: ChatTemplate, shown_by: ChatTemplate, turns: Turns, whole: Tracked, control: ControlTokens
    ) -> None:
        """`whole` was rendered by `shown_by`."""
        self._template = template
        self._shown_by = shown_by
        self.turns = turns
        self.whole = whole
        self._control = control
        self.text = str.__str__(whole)
        self._origins = without_marks(whole.origins)
        self._prompts: dict[int, str | None] = {}
        self._answers: dict[int, _Answer | None] = {}
        self._beginnings: dict[int, Tracked | None] = {}

    def by(self, twin: ChatTemplate) -> _Conversation:
        """The conversation as another template shows it; prompts are still the model's."""
        return self._sharing(_Conversation(self._template, twin, self.turns, twin.render(self.turns), self._control))

    def shows(self, number: int) -> bool:
        """Whether any of a turn's words are shown."""
        return chr(number + 1) in self._origins

    def answer(self, number: int) -> _Answer | None:
        """The answer of turn `number`; None where the template leaves it out."""
        if number not in self._answers:
            self._answers[number] = self._found(number) if self.shows(number) else None
        return self._answers[number]

    def lacks(self, number: int) -> bool:
        """Whether some of an answer that is to be learned is not shown, or nothing at its end."""
        answer = self.answer(number)
        return answer is None or not answer.ends or self.cuts(number)

    def cuts(self, number: int) -> bool:
        """Whether some of an answer's words are not shown, white space aside."""
        answer = self.answer(number)
        if answer is None:
            return True
        # The template may write a part of them itself, as the marks around a thought.
        first, last = answer.content
        begin = _last_said(self._origins, first) + 1
        return "".join(self.turns[number].content.split()) not in "".join(self.text[begin:last].split())

    def generated(self, number: int) -> str | None:
        """An answer as it is generated, with nothing behind it; None where the template refuses that, or leaves it out."""
        whole = None if number + 1 == len(self.turns) else self._alone(number)
        if whole is None:
            return None
        turns = self.turns[: number + 1]
        alone = self._sharing(_Conversation(self._template, self._shown_by, turns, whole, self._control))
        answer = alone.answer(number)
        return None if answer is None else alone.text[answer.place]

    def _sharing(self, other: _Conversation) -> _Conversation:
        other._prompts = self._prompts
        return other

    def _found(self, number: int) -> _Answer:
        first, after = self._place(number)
        before = _last_said(self._origins, first) + 1
        begin = before + _header(self.text[before:first], self._prompt(number))
        behind = _first_said(self._origins, after)
        length, stops = self._control.end_of(
            self.text[after:behind], lambda: self._closing(number, after, is_followed=behind < len(self._origins))
        )
        return _Answer(begin, (first, after), after + length, stops, length > 0)

    def _place(self, number: int) -> Span:
        """From where to where an answer's words stand. A template may show them again, as in a title or a summary."""
        own = chr(number + 1)
        first, after = self._origins.find(own), self._origins.rfind(own) + 1
        if self._origins.count(own, first, after) == after - first:
            return first, after
        runs = self._runs(own, first, after)
        if len(runs) == 1:
            return runs[0]
        prompt = self._prompt(number) or ""

        def fits(run: Span) -> tuple[int, Span]:
            opener = self.text[_last_said(self._origins, run[0]) + 1 : run[0]]
            return (len(opener) if prompt.startswith(opener) else in_common(opener[::-1], prompt[::-1])), run

        return max(runs, key=fits)

    def _runs(self, own: str, first: int, after: int) -> list[Span]:
        """Where a turn's words stand: apart where another's stand between, or a token of the template's that stops."""
        origins = self._origins[first:after]
        for one in self._control.found_in(self.text[first:after]):
            begin, end = one.span()
            if one[0] in self._control.ends and not origins[begin:end].strip(TEMPLATE):
                origins = f"{origins[:begin]}{_STOP * (end - begin)}{origins[end:]}"
        pattern = f"{re.escape(own)}(?:{TEMPLATE}*{re.escape(own)})*"
        return [(first + one.start(), first + one.end()) for one in re.finditer(pattern, origins)]

    def _prompt(self, number: int) -> str | None:
        """What the generation prompt has behind the turn before; None where the template refuses it."""
        if number not in self._prompts:
            try:
                prompt = self._template.render(self.turns[:number], open_for_answer=True)
            except TemplateRefuses:  # a template that wants a question first, or a whole conversation
                self._prompts[number] = None
            else:
                self._prompts[number] = _behind(prompt)
        return self._prompts[number]

    def _alone(self, number: int) -> Tracked | None:
        """The conversation up to an answer; None where the template refuses that."""
        if number not in self._beginnings:
            try:
                self._beginnings[number] = self._shown_by.render(self.turns[: number + 1])
            except TemplateRefuses:
                self._beginnings[number] = None
        return self._beginnings[number]

    def _closing(self, number: int, after: int, *, is_followed: bool) -> str:
        """What the template writes behind an answer that no turn follows; empty where it refuses that."""
        if number + 1 == len(self.turns):  # another turn may still be shown behind the last one, as a late system prompt
            closing = self.text[after : _first_said(self._origins, after)]
            return closing if not is_followed else closing[: self._control.first_end(closing)]
        alone = self._alone(number)
        return "" if alone is None else _behind(alone)


def _header(opener: str, prompt: str | None) -> int:
    """How many characters of what the template wrote before an answer the generation prompt ends with."""
    if prompt is None or prompt.startswith(opener):  # it opens more than the header: the answer begins where its words do
        return len(opener)
    if opener.startswith(prompt):
        return len(prompt)
    # Other words came first, as those of a system prompt that stands late. The longer part in common is the header.
    ends = next((size for size in range(len(prompt), 0, -1) if prompt[-size:] in opener), 0)
    opens = next((size for size in range(len(opener), 0, -1) if opener[-size:] in prompt), 0)
    return opener.rfind(prompt[-ends:]) + ends if ends > opens else len(opener)


def _within_marks(answer: _Answer, origins: str) -> _Answer | None:
    """The part of an answer inside the generation marks; None where there is none.

    What stops the generation belongs to an answer whose last word is marked, also where it is not marked itself.
    """
    first, last = answer.content
    places = [at for at in range(first, last) if is_marked(origins[at])]
    if not places:
        return None
    begin = answer.begin  # marked words follow
    while not is_marked(origins[begin]):
        begin += 1
    whole = places[-1] == last - 1
    return _Answer(begin, answer.content, answer.end if whole else places[-1] + 1, answer.stops and whole)


def _changes(shown: _Conversation) -> Iterator[str]:
    """The differences between turns in the whole conversation and as they are given, or generated."""
    for at, turn in enumerate(shown.turns):
        if not turn.content.strip():
            continue
        if not shown.shows(at):
            yield f"leaves out turn {at + 1}, which is the {turn.role}'s"
        elif turn.role == "assistant" and (here := shown.answer(at)) is not None:
            said, generated = shown.text[here.place], shown.generated(at)
            if generated is not None and generated != said:
                later, first = _short(said), _short(generated)
                yield f"shows turn {at + 1} as {later} later in the conversation, and as {first} when it is generated"
            elif shown.cuts(at):
                yield f"leaves out a part of turn {at + 1}, which is the assistant's: it shows {_short(said)}"


def _short(text: str) -> str:
    most = 60
    return repr(text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}")


def _behind(rendered: Tracked) -> str:
    """What the template writes behind the last character that is not its own."""
    return str.__str__(rendered)[len(without_marks(rendered.origins).rstrip(TEMPLATE)) :]


def _last_said(origins: str, end: int) -> int:
    """The place before `end` of the last character that is not the template's; -1 where there is none."""
    return len(origins[:end].rstrip(TEMPLATE)) - 1


def _first_said(origins: str, begin: int) -> int:
    """The place from `begin` on of the first character that is not the template's, or the end."""
    rest = origins[begin:]
    return begin + len(rest) - len(rest.lstrip(TEMPLATE))
