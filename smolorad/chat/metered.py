"""Makes a compiled chat template count its operations: see `Meter`.

Whatever a template can repeat or make passes here: loops and macros by a step at their beginning, operators, calls and filters
by a look at what they are given, and all values by a look at their size. The looks are filters that no template can name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.utils import _PassArg

from smolorad.chat.meter import Meter
from smolorad.chat.sizes import OF_FILTERS, OF_FUNCTIONS, OF_METHODS, Given, More

_STEP, _EACH, _MADE, _READ, _SHOWN = " step", " each", " made", " read", " shown"
_OPERATIONS = (nodes.Call, nodes.Filter, nodes.Test)
_CALL_STEPS = 8  # a call takes about as long as this many other operations
# Filters that do not look into what they are given, or do it step by step.
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr", "slice", "batch", "items", "list", "reverse")
_SHALLOW = frozenset([*_LAZY, "attr", "count", "d", "default", "first", "last", "length", "random", "safe"])
# Filters that Python computes character by character, or item by item in many steps.
_SLOW = frozenset(["pprint", "striptags", "title", "tojson", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"])
# Filters that Python computes item by item.
_BY_ITEM = frozenset(["dictsort", "groupby", "max", "min", "sort", "sum", "unique"])
_ITEM_STEPS = 8
# Tests that read what they are given.
_EQUAL = ("in", "==", "eq", "equalto", "!=", "ne", "lower", "upper")
_COMPARING = frozenset([*_EQUAL, ">", "gt", "greaterthan", "ge", ">=", "<", "lt", "lessthan", "<=", "le"])


class MeteredContext(Context):
    """What a template's names mean, and the meter of this rendering."""

    meter: Meter

    def derived(self, locals: dict[str, Any] | None = None) -> MeteredContext:
        """As jinja2 derives one; both have the same meter."""
        made = super().derived(locals)
        assert isinstance(made, MeteredContext)
        made.meter = self.meter
        return made


def insert_looks(template: nodes.Template, environment: jinja2.Environment) -> None:
    """Changes a parsed template, so that it is metered where it is rendered."""
    for block in list(template.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))):
        assert isinstance(block, nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block)
        step = nodes.ExprStmt(_look(nodes.Const(_operations(block)), _STEP))
        if isinstance(block, nodes.For) and block.test is not None:
            block.iter = _look(block.iter, _EACH)
        block.body.insert(0, step)
    for node in list(template.find_all(nodes.Node)):
        _look_into(node)
    template.set_environment(environment)


def _look_into(node: nodes.Node) -> None:
    """Puts looks around the parts of a node."""
    if isinstance(node, nodes.Compare):
        parts = [node.expr, *(one.expr for one in node.ops)]
        contains = any(one.op in ("in", "notin") for one in node.ops)
        if contains or not any(isinstance(part, nodes.Const) for part in parts):
            node.expr = _look(node.expr, _READ)
            for operand in node.ops:
                operand.expr = _look(operand.expr, _READ)
        return
    for name in node.fields:
        value = getattr(node, name)
        if isinstance(value, list):
            value[:] = [_looked_at(one, node) for one in value]
        elif isinstance(value, nodes.Node):
            setattr(node, name, _looked_at(value, node))


def _looked_at(part: Any, within: nodes.Node) -> Any:
    if isinstance(within, nodes.Output) and not isinstance(part, nodes.TemplateData | nodes.Const):
        return _look(part, _SHOWN)
    is_list = isinstance(part, nodes.List | nodes.Dict) or (isinstance(part, nodes.Tuple) and part.ctx == "load")
    if isinstance(within, nodes.Getitem) and part is within.arg and not isinstance(part, nodes.Slice):
        return _look(part, _READ)  # a dict reads all of a tuple
    is_slice = isinstance(part, nodes.Getitem) and isinstance(part.arg, nodes.Slice)
    return _look(part, _MADE) if is_list or is_slice else part


def _look(part: nodes.Node, name: str) -> nodes.Expr:
    if isinstance(part, nodes.Const) and name != _STEP:
        return part
    return nodes.Filter(part, name, [], [], None, None, lineno=part.lineno or 1)


def _operations(block: nodes.Node) -> int:
    """How many steps a block takes once, without the blocks in it that count for themselves."""
    steps, waiting = 1, list(block.iter_child_nodes())
    while waiting:
        node = waiting.pop()
        steps += 1
        if isinstance(node, nodes.TemplateData):
            steps += len(node.data) // 64
        if isinstance(node, nodes.For):
            waiting.append(node.iter)
        elif not isinstance(node, nodes.Macro | nodes.CallBlock | nodes.Block):
            waiting += node.iter_child_nodes()
    return steps


# Looks.


@jinja2.pass_context
def _step(context: MeteredContext, steps: int) -> None:
    context.meter.spend(steps)


@jinja2.pass_context
def _each(context: MeteredContext, values: Any) -> Iterator[Any]:
    return context.meter.each(values)


@jinja2.pass_context
def _made(context: MeteredContext, value: Any) -> Any:
    return context.meter.made(value)


@jinja2.pass_context
def _read(context: MeteredContext, value: Any) -> Any:
    context.meter.read(value)
    return value


@jinja2.pass_context
def _shown(context: MeteredContext, value: Any) -> Any:
    meter = context.meter
    if isinstance(value, str):
        meter.make(len(value))
        return value
    meter.make(meter.weight(value))
    return value


LOOKS: Mapping[str, Callable[..., Any]] = {_STEP: _step, _EACH: _each, _MADE: _made, _READ: _read, _SHOWN: _shown}


# Filters, tests, calls and operators.


def metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, which looks at what it is given first, and at what it makes."""
    passed = _PassArg.from_obj(function)
    shallow, slow, by_item, look = name in _SHALLOW, name in _SLOW, name in _BY_ITEM, OF_FILTERS.get(name)

    @jinja2.pass_context
    def call(context: MeteredContext, *args: Any, **more: Any) -> Any:
        meter = context.meter
        meter.spend(_CALL_STEPS)
        if not shallow:
            meter.read(*args, *more.values())
        if slow:
            meter.spend(sum(map(meter.weight, args)))
        if by_item and args and isinstance(args[0], Sized):
            meter.spend(_ITEM_STEPS * len(args[0]))
        if look is not None:
            args = look(meter, args, more)
        made = function(*_passed(passed, context), *args, **more)
        return meter.each(made) if isinstance(made, Iterator) else meter.made(made)

    return call


def metered_test(name: str, function: Any) -> Callable[..., Any]:
    """The test; one that compares reads what it is given."""
    if name not in _COMPARING:
        return cast(Callable[..., Any], function)

    @jinja2.pass_context
    def call(context: MeteredContext, *args: Any) -> Any:
        context.meter.read(*args)
        return function(*args)

    return call


def look_at_call(meter: Meter, function: Any, owner: Any, args: Given, more: More) -> Given:
    """What a call is given; `owner` is whose method it is. Returns the arguments, with iterators as lists."""
    meter.spend(_CALL_STEPS)
    name = getattr(function, "__name__", "")
    if isinstance(owner, str | bytes | int | float):
        meter.read(owner, *args)
        if (look := OF_METHODS.get(name)) is not None:
            return look(meter, (owner, *args), more)[1:]
        return args
    meter.spend(len(args) + len(more))
    if not isinstance(function, Macro | LoopContext):
        meter.read(*args)
    if isinstance(owner, list | tuple | range) and name in ("count", "index"):
        meter.spend(len(owner))
        meter.read(owner)
    if (look := OF_FUNCTIONS.get(name)) is not None:
        return look(meter, args, more)
    return args


def _passed(passed: _PassArg | None, context: Context) -> tuple[Any, ...]:
    match passed:
        case _PassArg.context:
            return (context,)
        case _PassArg.eval_context:
            return (context.eval_ctx,)
        case _PassArg.environment:
            return (context.environment,)
    return ()
