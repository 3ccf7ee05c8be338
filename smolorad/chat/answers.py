"""Which part of a conversation a model has to generate, so that it is trained on that and on nothing else.

An answer begins where the generation prompt ends, and ends with the token that stops the generation. Between its own characters
and those of the turn before it stands only what the template wrote, and the same stands at the end of the generation prompt: so
the two are compared, and nothing is searched for. Where a template has `{% generation %}` marks, they say which answers are
trained, and from where.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from smolorad.chat.spans import Span
from smolorad.chat.special import ControlTokens
from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.tracked import TEMPLATE, Tracked, is_marked, without_marks
from smolorad.chat.turns import Turns
from smolorad.chat.twins import training_twin


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
    """Where an answer stands in a rendered conversation."""

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
        shown = dataclasses.replace(shown, shown_by=twin, whole=twin.render(turns))
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


@dataclass(frozen=True, slots=True)
class _Conversation:
    template: ChatTemplate
    shown_by: ChatTemplate  # what `whole` was rendered with
    turns: Turns
    whole: Tracked
    control: ControlTokens

    def answer(self, number: int) -> _Answer | None:
        """The answer of turn `number`; None where the template leaves it out."""
        origins = without_marks(self.whole.origins)
        own = chr(number + 1)
        first, last = origins.find(own), origins.rfind(own)
        if first < 0:
            return None
        before = _last_said(origins[:first]) + 1
        opener = self.whole[before:first]
        begin = before + _header(str.__str__(opener), self._prompt(number))
        after = last + 1
        closing = self.whole[after : _first_said(origins, after)]
        alone = self._closing(number, closing, is_followed=after + len(closing) < len(origins))
        length, stops = self.control.end_of(closing, alone)
        return _Answer(begin, (first, after), after + length, stops, length > 0)

    def lacks(self, number: int) -> bool:
        """Whether some of an answer that is to be learned is not shown, or nothing at its end."""
        answer = self.answer(number)
        return answer is None or not answer.ends or _is_cut(self.whole, self.turns, number)

    def generated(self, number: int) -> str | None:
        """An answer as it is generated, with nothing behind it; None where the template refuses that, or leaves it out."""
        if number + 1 == len(self.turns):
            return None
        turns = self.turns[: number + 1]
        try:
            alone = dataclasses.replace(self, turns=turns, whole=self.shown_by.render(turns))
        except TemplateRefuses:
            return None
        answer = alone.answer(number)
        return None if answer is None else alone.whole[answer.place]

    def _prompt(self, number: int) -> str | None:
        """What the generation prompt has behind the turn before; None where the template refuses it."""
        try:
            prompt = self.template.render(self.turns[:number], open_for_answer=True)
        except TemplateRefuses:  # a template that wants a question first, or a whole conversation
            return None
        return prompt[_last_said(without_marks(prompt.origins)) + 1 :]

    def _closing(self, number: int, closing: str, *, is_followed: bool) -> str:
        """What the template writes behind an answer that no turn follows; empty where it refuses that."""
        if number + 1 == len(self.turns):  # another turn may still be shown behind the last one, as a late system prompt
            return closing if not is_followed else closing[: self.control.first_end(closing)]
        try:
            alone = self.shown_by.render(self.turns[: number + 1])
        except TemplateRefuses:
            return ""
        return alone[_last_said(without_marks(alone.origins)) + 1 :]


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
    """What the generation marks leave of an answer; None where that is nothing.

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
    """How turns read otherwise in the whole conversation than they were said, or than they are generated."""
    for at, turn in enumerate(shown.turns):
        if not turn.content.strip():
            continue
        here = shown.answer(at)
        if here is None:
            yield f"leaves out turn {at + 1}, which is the {turn.role}'s"
        elif turn.role == "assistant":
            said, generated = shown.whole[here.place], shown.generated(at)
            if generated is not None and generated != said:
                later, first = _short(said), _short(generated)
                yield f"shows turn {at + 1} as {later} later in the conversation, and as {first} when it is generated"
            elif _is_cut(shown.whole, shown.turns, at):
                yield f"leaves out a part of turn {at + 1}, which is the assistant's: it shows {_short(said)}"


def _is_cut(whole: Tracked, turns: Turns, number: int) -> bool:
    """Whether some of a turn's words are not shown, white space aside."""
    origins, own = without_marks(whole.origins), chr(number + 1)
    first, last = origins.find(own), origins.rfind(own)
    if first < 0:
        return True
    # The template may write a part of them itself, as the marks around a thought.
    begin = _last_said(origins[:first]) + 1
    return "".join(turns[number].content.split()) not in "".join(whole[begin : last + 1].split())


def _short(text: str) -> str:
    most = 60
    return repr(text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}")


def _last_said(origins: str) -> int:
    """The place of the last character that is not the template's; -1 where there is none."""
    return len(origins.rstrip(TEMPLATE)) - 1


def _first_said(origins: str, begin: int) -> int:
    """The place from `begin` on of the first character that is not the template's, or the end."""
    rest = origins[begin:]
    return begin + len(rest) - len(rest.lstrip(TEMPLATE))
