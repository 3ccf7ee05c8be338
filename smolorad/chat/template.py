"""A model's chat template, rendered as transformers renders it, without importing transformers.

The environment is that of `transformers.utils.chat_template_utils`; a test compares the two. What it renders is `Tracked`:
the same text, of which each character has its origin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property, partial
from operator import mod
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from smolorad.chat.meter import Meter, refuse
from smolorad.chat.metered import LOOKS, MeteredContext, insert_looks, look_at_call, metered_filter, metered_test
from smolorad.chat.sizes import look_at_operator
from smolorad.chat.tracked import TEMPLATE, Tracked, attributed, concatenated, formatted, join, keeping_origins, marked
from smolorad.chat.turns import Turn, Turns
from smolorad.errors import sendable

_MOST_SOURCE = 2**18  # characters of a template; the longest that is known has a tenth of that
_MOST_SAID = 500  # characters of a template's own message
_OF_JINJA = ("_loop_vars", "_block_vars")  # what jinja2 passes besides with a call: all that a loop has set
_HALF = re.compile("[\ud800-\udfff]")
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateRefuses(Exception):
    """The template cannot show this conversation; the message is its own, or its beginning."""

    def __init__(self, message: str) -> None:
        super().__init__(sendable(message if len(message) <= _MOST_SAID else f"{message[:_MOST_SAID]}…"))


# What a broken template raises, be it as it is compiled or as it is rendered.
_BROKEN = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, SyntaxError)


class ChatTemplate:
    """Renders conversations, within the bounds of `Meter`. `special` has `bos_token`, `eos_token` and the like.

    Raises TemplateRefuses for a broken one.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self.source = source
        self.special = special
        try:
            if len(source) > _MOST_SOURCE:
                raise TemplateRefuses(f"it has {len(source):,} characters, and {_MOST_SOURCE:,} is the limit")
            self._template = _environment().from_string(source)
        except _BROKEN as error:
            raise TemplateRefuses(str(error)) from error
        except (RecursionError, MemoryError) as error:  # so the compiler says that it is nested too deep
            raise TemplateRefuses("it is nested too deep") from error
        self._globals = dict(self._template.globals)
        self._special = dict(special)

    @property
    def has_marks(self) -> bool:
        """Whether the template says itself what the assistant generates."""
        return _MARKS.search(self.source) is not None

    def render(self, turns: Turns, *, open_for_answer: bool = False) -> Tracked:
        """The text of a conversation, to its end or to where the assistant's next turn begins.

        Raises TemplateRefuses, and UnsupportedModel where that takes more than any template needs.
        """
        return self._rendered(turns, open_for_answer, as_parts=self.wants_parts)

    @cached_property
    def wants_parts(self) -> bool:
        """Whether the template reads contents as lists of parts alone, as those of models that also see pictures do."""
        probe = (Turn("user", "?"),)
        try:
            return not self._shows(probe, as_parts=False) and self._shows(probe, as_parts=True)
        except TemplateRefuses:
            return False

    def _shows(self, turns: Turns, *, as_parts: bool) -> bool:
        return any(one != TEMPLATE for one in self._rendered(turns, False, as_parts=as_parts).origins)

    def _rendered(self, turns: Turns, open_for_answer: bool, *, as_parts: bool) -> Tracked:
        messages = []
        for at, turn in enumerate(turns):
            content = Tracked.of_turn(turn.content, at)
            parts = [{"type": "text", "text": content}]
            messages.append({"role": turn.role, "content": parts if as_parts else content})
        try:
            # As Template.render does it, but for its error handling, which rewrites tracebacks.
            given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": open_for_answer}
            context = self._template.new_context(self._globals | given | self._special, shared=True)
            assert isinstance(context, MeteredContext)
            context.meter = Meter(len(turns), sum(len(turn.content) for turn in turns))
            shown = concatenated(self._template.root_render_func(context))
        except _BROKEN as error:
            raise TemplateRefuses(str(error)) from error
        except RecursionError:
            refuse("calls itself too often to show this conversation")
        except MemoryError:
            refuse("needs more memory than there is to show this conversation")
        if _HALF.search(shown):
            raise TemplateRefuses("it makes half of a surrogate pair, which no tokenizer reads")
        return shown


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    filters = {name: keeping_origins(one) for name, one in environment.filters.items()}
    filters |= {"tojson": keeping_origins(_tojson), "join": _join, "format": _format, "replace": _replace, "indent": _indent}
    environment.filters = {**{name: metered_filter(name, one) for name, one in filters.items()}, **LOOKS}
    environment.tests = {name: metered_test(name, one) for name, one in environment.tests.items()}
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _Concatenation(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """`a ~ b`, by the environment's own concatenation."""
        self.write("environment.concat(context.meter.parts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which texts keep the origins of their characters."""

    concat = staticmethod(concatenated)
    code_generator_class = _Concatenation
    context_class = MeteredContext
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """As jinja2 makes Python of a template, with looks in between. The hook is jinja2's, despite its name."""
        insert_looks(source, self)
        return super()._generate(source, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the sandbox does it, but faster for what every template reads of every turn."""
        if type(obj) is dict and attribute in ("role", "content") and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """As the sandbox calls; a text made of tracked texts stays tracked."""
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # the sandbox wraps `format`
        name = getattr(__obj, "__name__", "")
        given = {key: one for key, one in kwargs.items() if key not in _OF_JINJA}
        assert isinstance(__context, MeteredContext)
        meter = __context.meter
        args = look_at_call(meter, __obj, owner, args, given)
        if type(owner) is str and name in ("join", "replace"):  # what they are given may be tracked
            return getattr(Tracked(owner), name)(*args, **given)
        if isinstance(owner, str) and name in ("format", "format_map"):
            return formatted(partial(super().call, __context, __obj), owner, args, given)
        made = meter.made(super().call(__context, __obj, *args, **kwargs))
        return attributed(made, owner, args, given) if isinstance(made, str) and not isinstance(made, Tracked) else made

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator that may make something large; `%` formats texts too."""
        assert isinstance(context, MeteredContext)
        look_at_operator(context.meter, operator, left, right)
        if operator != "%" or not isinstance(left, str):
            return super().call_binop(context, operator, left, right)
        return formatted(partial(mod, left), left, [right], {})


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; the text within stays as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """A call of the statements within, as transformers makes one: what they set is not seen outside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> Tracked:
        return marked(caller())


def _format(value: Any, *args: Any, **kwargs: Any) -> Tracked:
    """The filter `format`, as jinja2 has it."""
    if args and kwargs:
        raise jinja2.TemplateError("can't handle positional and keyword arguments at the same time")
    return formatted(partial(mod, str(value)), value, [kwargs or args], {})


@jinja2.pass_environment
def _join(environment: jinja2.Environment, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> Tracked:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return join(str(d), map(str, values))


def _replace(s: Any, old: str, new: str, count: int | None = None) -> Tracked:
    """The filter `replace`, as jinja2 has it."""
    return _tracked(s).replace(str(old), str(new), -1 if count is None else count)


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> Tracked:
    """The filter `indent`, as jinja2 has it."""
    space = width if isinstance(width, str) else " " * width
    head, *lines = (_tracked(s) + "\n").splitlines()
    shown = [head, *(line if not (line or blank) else space + line for line in lines)]
    return (space if first else "") + join("\n", shown)


def _tracked(value: Any) -> Tracked:
    text = str(value)
    return text if isinstance(text, Tracked) else Tracked(text)


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


def source_of(setting: object) -> str | None:
    """The chat template in a tokenizer's setting: the template, or several by name, of which one is the default."""
    if isinstance(setting, list):
        setting = {one.get("name"): one.get("template") for one in setting if isinstance(one, Mapping)}
    found = setting.get("default") if isinstance(setting, Mapping) else setting
    return found if isinstance(found, str) else None
