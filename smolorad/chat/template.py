"""A model's chat template, rendered as transformers renders it, without importing transformers.

The environment is that of `transformers.utils.chat_template_utils`; a test holds the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smolorad.chat.turns import Turns


class TemplateRefuses(Exception):
    """The template cannot show this conversation; the message is its own."""


class ChatTemplate:
    """Renders conversations. `special` holds `bos_token`, `eos_token` and the like. Raises TemplateRefuses for a broken one."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._special = special
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateRefuses(str(error)) from error

    def render(self, turns: Turns, *, open_for_answer: bool = False) -> str:
        """The text of a conversation, to its end or to where the assistant's next turn begins."""
        messages = [{"role": role, "content": content} for role, content, _ in turns]
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=open_for_answer, **self._special
            )
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise TemplateRefuses(str(error)) from error

    def spans(self, turns: Turns) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and from where to where in it the assistant speaks.

        The same as training finds (`engine/spans.py`): a turn is what the conversation has more with it, or where the template
        refuses what stands before it, the turn's own words. Raises TemplateRefuses also where the template does not keep what
        it wrote as the conversation goes on, so that what is trained on would not be what the model sees when it answers.
        """
        whole = self.render(turns)
        spans = []
        cursor = 0
        for number, (role, content, _) in enumerate(turns):
            speaks = role == "assistant" and bool(content.strip())
            span = self._by_difference(turns, number, whole) if speaks else None
            span = span or self._by_words(content.strip(), whole, cursor)
            if span is not None:
                cursor = span[1]
                if speaks:
                    spans.append(span)
        return whole, spans

    def _by_difference(self, turns: Turns, number: int, whole: str) -> tuple[int, int] | None:
        if number == 0:  # transformers renders no empty conversation
            return None
        try:
            before = self.render(turns[:number], open_for_answer=True)
            after = whole if number + 1 == len(turns) else self.render(turns[: number + 1])
        except TemplateRefuses:  # a template that wants a question first, or a whole conversation
            return None
        if not (whole.startswith(after) and after.startswith(before)):
            raise TemplateRefuses(f"turn {number + 1} reads otherwise in the conversation than when it is generated")
        return len(before), self._said(after, len(before))

    def _by_words(self, words: str, text: str, cursor: int) -> tuple[int, int] | None:
        """Where a turn's words stand, with the end-of-text token if that follows at once."""
        begin = text.find(words, cursor) if words else -1
        end = self._special.get("eos_token", "")
        stop = begin + len(words)
        return None if begin < 0 else (begin, stop + len(end) if end and text.startswith(end, stop) else stop)

    def _said(self, text: str, begin: int) -> int:
        """Where a turn that begins at `begin` ends: behind its last end-of-text token, or at the end of the text."""
        end = self._special.get("eos_token", "")
        at = text.rfind(end, begin) if end else -1
        return at + len(end) if at >= 0 else len(text)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; the text within stays as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> Sequence[nodes.Node]:  # type: ignore[override]
        """The statements within."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
