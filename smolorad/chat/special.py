"""Control tokens: what a chat template writes and a user's text must not become.

A tokenizer finds its added tokens in any text. Those that steer the model are control tokens: the special ones, and those that
the chat template writes around turns, which some models do not call special. Other added tokens, such as `<think>`, are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from smolorad.chat.spans import in_common
from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.tracked import TEMPLATE
from smolorad.chat.turns import Turn
from smolorad.errors import UnsupportedModel

_BRACKETED = re.compile(r"[<\[].+[>\]]", re.DOTALL)


class ControlTokens:
    """The control tokens of one model, by their text."""

    def __init__(self, tokens: Collection[str], ends: Iterable[str]) -> None:
        """`ends` are the tokens that stop the generation."""
        self.tokens = frozenset(token for token in tokens if token)
        self.ends = frozenset(end for end in ends if end)
        self._any = _pattern(self.tokens | self.ends)

    def within(self, text: str) -> bool:
        """Whether one of them stands in a text."""
        return self._any is not None and self._any.search(text) is not None

    def found_in(self, text: str) -> Iterable[re.Match[str]]:
        """Where they stand in a text, from its beginning to its end."""
        return () if self._any is None else self._any.finditer(text)

    def first_end(self, text: str) -> int:
        """Where the first of them in a text ends; 0 where there is none."""
        return next((one.end() for one in self.found_in(text)), 0)

    def end_of(self, closing: str, alone: Callable[[], str]) -> tuple[int, bool]:
        """How much of what the template writes behind an answer belongs to it, and whether that stops the generation.

        `closing` may reach into the next turn; `alone` says what stands there where no turn follows. Up to the first token that
        stops the generation; without one, up to the last control token of what both have in common.
        """
        found = list(self.found_in(closing))
        if found and found[0][0] in self.ends:
            return found[0].end(), True
        last_closing = alone()
        last = list(self.found_in(last_closing))
        common = in_common(closing, last_closing)
        within = [one for one in found if one.end() <= common]
        for one in within:
            if one[0] in self.ends:
                return one.end(), True
        if within:
            return within[-1].end(), False
        # Some templates end the last answer with a token of its own.
        if found and last and found[0].start() == last[0].start():
            return found[0].end(), last[0][0] in self.ends
        return 0, False


def frame_tokens(template: ChatTemplate | None, added: Collection[str]) -> set[str]:
    """Of a tokenizer's added tokens those that the template writes before a question, and first behind it."""
    if template is None:
        return set()
    try:
        shown = template.render((Turn("user", "?"),), open_for_answer=True)
    except (TemplateRefuses, UnsupportedModel):
        return set()
    begin, end = shown.origins.find(chr(1)), shown.origins.rfind(chr(1)) + 1
    pattern = _pattern([token for token in added if _BRACKETED.fullmatch(token)])
    if pattern is None or begin < 0 or set(shown.origins[:begin]) - {TEMPLATE}:
        return set()
    behind = pattern.search(shown[end:])
    return set(pattern.findall(shown[:begin])) | ({behind[0]} if behind else set())


def _pattern(tokens: Iterable[str]) -> re.Pattern[str] | None:
    # The longest first, as tokenizers find them.
    longest_first = sorted((re.escape(token) for token in tokens), key=len, reverse=True)
    return re.compile("|".join(longest_first)) if longest_first else None
