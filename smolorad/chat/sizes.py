"""How large a value of a chat template becomes, where that depends on a number, or on the product of two sizes.

All else that a template can call makes values about as large as those that it is given.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

from smolorad.chat.meter import Meter

Given = tuple[Any, ...]
More = Mapping[str, Any]
Look = Callable[[Meter, Given, More], Given]  # what is given, the text or list first; returns it, with iterators as lists

# Of a printf-style pattern, the width and the precision, behind `%` or `%(name)`.
_PERCENT = re.compile(r"[-#0 +]*(\*|\d+)?(?:\.(\*|\d+))?[hlL]?")
# Encodings that take a text as it comes; others, such as Punycode, look at all of it for each character.
_LINEAR = frozenset(["ascii", "cp1252", "iso8859-1", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32"])
_BRACKETS = re.compile(r"[()]")
_DIGITS = 18  # of a width that are read; more make it no smaller
_BITS_OF_DIGIT = 4
_MOST_WIDTH = 64  # characters that a width may take, or bits; a longer one is an error
_WORD = 16  # characters, and about as many steps as it takes to choose it
_SLOW_CODEC = 4


def look_at_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """The two sides of `+`, `*`, `**` or `%`."""
    numbers = isinstance(left, int) and isinstance(right, int)
    if operator == "+" and not numbers:
        meter.make(meter.weight(left) + meter.weight(right))
    elif operator == "*" and numbers:
        meter.number(left.bit_length() + right.bit_length())
    elif operator == "*":
        for one, times in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(one, str | bytes | list | tuple):
                meter.make((meter.weight(one) + len(one)) * max(times, 0))
    elif operator == "**" and numbers:
        meter.number(left.bit_length() * abs(right))
    elif operator == "%" and isinstance(left, str | bytes):
        _percent(meter, left, right)


def _numbers(*values: Any) -> Iterator[int]:
    """The whole numbers in values, however deep."""
    for value in values:
        if isinstance(value, int):
            yield abs(value)
        elif isinstance(value, list | tuple):
            yield from _numbers(*value)
        elif isinstance(value, Mapping):
            yield from _numbers(*value.values())


def _largest(args: Given, more: More) -> int:
    """The largest number among the values behind the first."""
    return max(_numbers(*args[1:], *more.values()), default=0)


def _width(meter: Meter, args: Given, more: More) -> Given:
    meter.make(_largest(args, more))
    return args


def _prefix(meter: Meter, args: Given, more: More) -> Given:
    """A text, or as many spaces, that comes before each line, or stands at each tabulator."""
    given = (*args[1:], *more.values())
    size = max([*_numbers(*given), *(len(one) for one in given if isinstance(one, str))], default=8)
    meter.make(_lines(meter, args[0]) * size)
    return args


def _wrapped(meter: Meter, args: Given, more: More) -> Given:
    """A text in place of every space at worst."""
    meter.make(len(str(args[0])) * max((len(one) for one in (*args[1:], *more.values()) if isinstance(one, str)), default=1))
    return args


def _lines(meter: Meter, value: Any) -> int:
    if isinstance(value, str):
        return 1 + value.count("\t") + len(str.splitlines(value))
    return 1 + (value.count(b"\t") if isinstance(value, bytes) else meter.weight(value))


def _replaced(meter: Meter, args: Given, more: More) -> Given:
    text, old, new = (*args, *(more.get(name, "") for name in ("s", "old", "new")[len(args) :]))[:3]
    if isinstance(text, bytes):
        times = text.count(old) if isinstance(old, bytes) else 0
        meter.make(len(text) + times * meter.weight(new))
    else:
        meter.make(len(str(text)) + str(text).count(str(old)) * len(str(new)))
    return args


def _joined_by(meter: Meter, args: Given, more: More) -> Given:
    """The method, whose separator comes first."""
    return args if len(args) < 2 else (args[0], _joined(meter, args[1], args[0]))


def _joined_with(meter: Meter, args: Given, more: More) -> Given:
    """The filter, whose separator comes last."""
    return (_joined(meter, args[0], (*args[1:2], more.get("d", ""))[0]), *args[1:])


def _joined(meter: Meter, parts: Any, separator: Any) -> list[Any]:
    listed = list(meter.each(parts))
    meter.make(
        sum(map(meter.weight, listed)) + len(listed) * len(separator if isinstance(separator, bytes) else str(separator))
    )
    return listed


def _summed(meter: Meter, args: Given, more: More) -> Given:
    """Lists are added one by one, and each of these sums is a new list."""
    listed = list(meter.each(args[0]))
    sizes = [len(one) for one in listed if isinstance(one, list | tuple)]
    meter.make(sum(sizes))
    meter.spend(sum(sizes) * len(sizes) // 8)
    return (listed, *args[1:])


def _without_tags(meter: Meter, args: Given, more: More) -> Given:
    """Tags are cut out one by one, and each time the rest is copied."""
    text = str(args[0])
    meter.spend(len(text) * text.count("<") // 64)
    return args


def _rounded(meter: Meter, args: Given, more: More) -> Given:
    meter.number(_BITS_OF_DIGIT * _largest(args, more))
    return args


def _translated(meter: Meter, args: Given, more: More) -> Given:
    table = args[1] if len(args) > 1 else ()
    inner = table.values() if isinstance(table, dict) else table if isinstance(table, list | tuple) else ()
    meter.make(len(args[0]) * max((len(one) for one in inner if isinstance(one, str)), default=1))
    return args


def _filler_text(meter: Meter, args: Given, more: More) -> Given:
    """A number of paragraphs, each of up to a number of words; by default 5, of 100."""
    paragraphs = (*args[:1], more.get("n", 5))[0]
    words = max([100, *_numbers(*args[2:], *(more.get(name, 0) for name in ("min", "max")))])
    meter.make(max([0, *_numbers(paragraphs)]) * words * _WORD)
    return args


def _coded(meter: Meter, args: Given, more: More) -> Given:
    name = (*args[1:], more.get("encoding", "utf-8"))[0]
    try:
        is_linear = codecs.lookup(name).name in _LINEAR
    except (LookupError, TypeError, ValueError):  # the call says so itself
        is_linear = True
    if not is_linear:
        meter.spend(len(args[0]) ** 2 // _SLOW_CODEC)
    return args


def _percent(meter: Meter, pattern: str | bytes, values: Any) -> None:
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    widths = list(_widths(text))
    given = max(_numbers(values), default=0)
    size = sum(given if one == "*" else int(one[:_DIGITS]) for one in widths)
    # By names, each value may stand there many times.
    times = text.count("%") if isinstance(values, dict) else 1
    meter.make(len(text) + size + meter.weight(values) * times)


def _widths(pattern: str) -> Iterator[str]:
    """The widths and precisions of a printf-style pattern. Names may have brackets in them."""
    at = pattern.find("%") + 1
    while at:
        if pattern[at : at + 1] == "(":
            depth = 0
            for bracket in _BRACKETS.finditer(pattern, at):
                depth += 1 if bracket[0] == "(" else -1
                at = bracket.end()
                if not depth:
                    break
            else:  # it does not end, which is an error
                return
        found = _PERCENT.match(pattern, at)
        assert found is not None
        yield from filter(None, found.groups())
        at = pattern.find("%", found.end() + 1) + 1


def _by_percent(meter: Meter, args: Given, more: More) -> Given:
    _percent(meter, str(args[0]), dict(more) or tuple(args[1:]))
    return args


def _by_braces(meter: Meter, args: Given, more: More) -> Given:
    if isinstance(args[0], str):
        _braces(meter, args[0], args[1:], more)
    return args


def _by_map(meter: Meter, args: Given, more: More) -> Given:
    if isinstance(args[0], str) and len(args) > 1 and isinstance(args[1], Mapping):
        _braces(meter, args[0], (), args[1])
    return args


def _braces(meter: Meter, pattern: str, values: Sequence[Any], more: More) -> None:
    size = len(pattern)
    shown = sum(map(meter.weight, (*values, *more.values())))
    for _, field, spec, _ in Formatter().parse(pattern):
        if field is None:
            continue
        size += shown + sum(int(one[:_DIGITS]) for one in re.findall(r"\d+", spec or ""))
        if "{" in (spec or ""):
            size += 10 ** min(_digits(spec or "", values, more), _DIGITS)
    meter.make(size)


def _digits(spec: str, values: Sequence[Any], more: More) -> int:
    """How many digits of a width and a precision there may be at most where values stand in them."""
    digits = 0
    for literal, field, *_ in Formatter().parse(spec):
        digits += sum(one.isdigit() for one in literal)
        if field is None:
            continue
        if field in more:
            digits += _digits_of(more[field])
        elif field.isdecimal() and int(field[:_DIGITS]) < len(values):
            digits += _digits_of(values[int(field)])
        else:
            digits += max(map(_digits_of, (*values, *more.values())), default=0)
    return digits


def _digits_of(value: Any) -> int:
    if isinstance(value, str):
        return sum(one.isdigit() for one in value[:_MOST_WIDTH])
    return max((len(str(one)) for one in _numbers(value) if one.bit_length() < _MOST_WIDTH), default=0)


OF_METHODS: Mapping[str, Look] = {
    **dict.fromkeys(("center", "ljust", "rjust", "to_bytes", "zfill"), _width),
    **dict.fromkeys(("decode", "encode"), _coded),
    "expandtabs": _prefix,
    "format": _by_braces,
    "format_map": _by_map,
    "join": _joined_by,
    "replace": _replaced,
    "translate": _translated,
}
OF_FILTERS: Mapping[str, Look] = {
    **dict.fromkeys(("batch", "center", "slice"), _width),
    **dict.fromkeys(("indent", "tojson"), _prefix),
    "format": _by_percent,
    "join": _joined_with,
    "replace": _replaced,
    "round": _rounded,
    "striptags": _without_tags,
    "sum": _summed,
    "wordwrap": _wrapped,
}
OF_FUNCTIONS: Mapping[str, Look] = {"generate_lorem_ipsum": _filler_text}
