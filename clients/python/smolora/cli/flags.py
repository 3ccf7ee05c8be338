"""Flags made of the contract's settings: `learning_rate` becomes `--learning-rate`, and its comment the help."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from smolora._fields import Field

_METAVAR = {"int": "N", "float": "X", "str": "NAME", "strs": "A,B", "ints": "N,M", "map": "A=N,B=M", "names": "A=B,C=D"}
_METAVAR |= {"floats": "ID=X,ID=X"}
# Texts have commas of their own, so each is given apart.
_REPEATED_FLAGS = frozenset({"sample_prompts", "stop", "bad_words"})
# What a dataset or an adapter is named by.
ONE_REVISION = "`name` (its newest revision) or `name@revision`"
EVERY_REVISION = "`name` (every revision) or `name@revision`"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines, since the usage of `train` alone would fill a screen, and finds a misspelt flag."""

    def error(self, message: str) -> NoReturn:
        """Exits with 2."""
        self.exit(2, f"usage: {self.prog} --help\n{self.prog}: error: {message}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses what it does not know itself: the parser above would name neither the verb nor the flag that was meant."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return known, unknown


def common(parser: argparse.ArgumentParser) -> None:
    """The flags that every verb has, before and after its name."""
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="write JSON to stdout")
    parser.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the daemon's socket")


class Actions:
    """What a verb does to the things it names: `jobs list`, `jobs show ID`. Without an action it lists."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        parser.set_defaults(action="list")
        self._parsers = parser.add_subparsers(metavar="ACTION", help="by default list")

    def add(self, name: str, line: str, /, **positional: str) -> argparse.ArgumentParser:
        """One action with its positional arguments, each by its name, in capitals in the help, and what it is."""
        parser = self._parsers.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        parser.set_defaults(action=name)
        common(parser)
        for argument, what in positional.items():
            parser.add_argument(argument, metavar=argument.upper(), help=what)
        return parser


def add_flags(parser: Any, fields: Iterable[Field], aliases: Mapping[str, str] | None = None) -> None:
    """One flag a field; what is not given stays None: the daemon's default applies. `aliases`: field → a second flag."""
    for field in fields:
        flags = ["--" + field.name.replace("_", "-")]
        if aliases and field.name in aliases:
            flags.append(aliases[field.name])
        text = field.help.replace("%", "%%")
        if field.kind == "bool":
            parser.add_argument(*flags, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif "|" in field.kind:
            parser.add_argument(*flags, choices=field.kind.split("|"), default=None, help=text)
        elif field.name in _REPEATED_FLAGS:
            text = f"{text} May be given several times."
            parser.add_argument(*flags, action="append", metavar="TEXT", default=None, help=text)
        else:
            kind = _KINDS[field.kind]
            parser.add_argument(*flags, type=kind, metavar=_METAVAR[field.kind], default=None, help=text)


def given(args: argparse.Namespace, fields: Iterable[Field]) -> dict[str, Any]:
    """The settings that were given, by name."""
    found = {field.name: getattr(args, field.name) for field in fields}
    return {name: value for name, value in found.items() if value is not None}


def _strings(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _strings(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers like 0,1,2") from None


def _numbers_by_name(text: str) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in (part.split("=") for part in _strings(text))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like q_proj=8,v_proj=16") from None


def _numbers_by_id(text: str) -> dict[int, float]:
    try:
        return {int(id): float(value) for id, value in (part.split("=") for part in _strings(text))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like 42=-100,7=2.5") from None


def _names_by_name(text: str) -> dict[str, str]:
    try:
        return {name.strip(): value.strip() for name, value in (part.split("=") for part in _strings(text))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like prompt=question,completion=answer") from None


_KINDS = {
    "int": int,
    "float": float,
    "str": str,
    "strs": _strings,
    "ints": _whole_numbers,
    "map": _numbers_by_name,
    "names": _names_by_name,
    "floats": _numbers_by_id,
}


def duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1h30m`, `500ms`; what is negative is for ever."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    if not re.fullmatch(r"-?([0-9]*\.?[0-9]+(h|ms|m|s)?)|-?([0-9]*\.?[0-9]+(h|ms|m|s))+", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration; write 90, 90s, 10m or 2h, or -1 for ever")
    parts = re.findall(r"([0-9]*\.?[0-9]+)(h|ms|m|s)?", text)
    seconds = sum(float(number) * units[unit or "s"] for number, unit in parts)
    return -seconds if text.strip().startswith("-") else seconds
