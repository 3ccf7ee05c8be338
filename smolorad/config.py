"""The daemon's settings: one frozen value, made once, from flags, the environment, a TOML file and defaults, in that order.

`Settings` is the one table: a field's name, type, default and help give the flag (`--max-queue`), the environment's variable
(`SMOLORA_MAX_QUEUE`) and the key of the file (`max_queue`). No other module reads the environment.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from smolora.common import paths
from smolorad.domain import Bounds, Device, Dtype, KvDtype, Precision
from smolorad.errors import InvalidRequest
from smolorad.paths import Home

PREFIX = "SMOLORA_"
CONFIG_VARIABLE = "SMOLORA_CONFIG"
# Variables with our prefix that are not the daemon's: the one that scripts/proto.sh reads.
_OF_OTHERS = frozenset({"SMOLORA_PROTO_ENV"})


def _setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    in_file_only: bool = False,
) -> Any:
    """A field of the table; `in_file_only` keeps it from flags and environment."""
    meta = {"help": help, "bounds": Bounds(least=least, above=above), "choices": choices, "in_file_only": in_file_only}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, slots=True)
class Settings:
    """The daemon's settings. A negative `keep_alive` is for ever; `device` and `dtype` None mean the daemon's choice."""

    home: Path = _setting(None, "the state folder; default: the platform's data folder")
    socket: Path = _setting(
        None, "the Unix socket; default: run/smolorad.sock in the state folder, or $XDG_RUNTIME_DIR/smolora"
    )
    log_level: str = _setting("info", "how much is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = _setting("text", "one line of text, or one JSON object, an entry", choices=("text", "json"))
    log_file: Path | None = _setting(None, "log to this file, rotated at 10 MB; default: standard error")
    default_model: str = _setting(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "the model to load where none is named and none was loaded before"
    )
    device: Device | None = _setting(None, "where models compute; default: automatic", choices=tuple(Device))
    dtype: Dtype | None = _setting(None, "the number format of weights in memory; default: automatic", choices=tuple(Dtype))
    precision: Precision = _setting(
        Precision.EXACT, "how generation reads the weights of a model that is loaded", choices=tuple(Precision)
    )
    kv_dtype: KvDtype | None = _setting(
        None, "the number format of KV caches; default: that of the weights", choices=tuple(KvDtype)
    )
    keep_alive: timedelta = _setting(
        timedelta(minutes=30), "how long an unused model stays loaded: 30m, 1h, 90 (seconds); -1: for ever; 0: not at all"
    )
    max_queue: int = _setting(512, "jobs that may wait", least=1)
    max_generations: int = _setting(64, "generations that may be under way or wait", least=1)
    drain_s: float = _setting(25.0, "seconds that work in progress gets to reach a checkpoint when the daemon ends", least=0)
    prefix_cache_disk_bytes: int = _setting(
        0, "bytes of disk for what was computed of prompts, so that it is there after a restart; 0: nothing is kept", least=0
    )
    stall_s: float = _setting(
        60.0,
        "seconds without a sign of life, or on a call that was cancelled, after which the engine is killed and started again",
        above=0,
    )
    preload: bool = _setting(True, "load the model again that was loaded before a restart")
    allow_remote_code: tuple[str, ...] = _setting(
        (), "models, by name or hub id, whose own Python code may run", in_file_only=True
    )
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)  # what children inherit; not a setting

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Adds one flag for each setting, and `--config`, to a parser; unset flags are absent from the namespace."""
        parser.add_argument(
            "--config", default=argparse.SUPPRESS, metavar="FILE", help=f"the TOML file; default: {paths.config_path()}"
        )
        for f in _table():
            if f.metadata["in_file_only"]:
                continue
            flag, text = _flag(f.name), f.metadata["help"].replace("%", "%%")
            if f.default is not None:
                text += f"; default: {_show(f.default)}"
            if _kind(f.name) is bool:
                parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
            else:
                metavar = "{" + ",".join(f.metadata["choices"]) + "}" if f.metadata["choices"] else _METAVARS[_kind(f.name)]
                parser.add_argument(flag, default=argparse.SUPPRESS, metavar=metavar, help=text)

    @classmethod
    def load(cls, argv: Sequence[str], environ: Mapping[str, str], file: Path | None = None) -> Settings:
        """Reads the settings; `file` stands in for the default place of the TOML file.

        Raises InvalidRequest that names the key and where it stands; argparse exits on an unknown flag.
        """
        parser = argparse.ArgumentParser(prog="smolorad serve")
        cls.add_arguments(parser)
        return cls.resolve(vars(parser.parse_args(argv)), environ, file)

    @classmethod
    def resolve(cls, flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> Settings:
        """As `load`, for flags that a parser with `add_arguments` has read; names that are no setting are left out."""
        values = {
            **_from_file(flags.get("config") or environ.get(CONFIG_VARIABLE), file or paths.config_path()),
            **_from_environ(environ),
            **{f.name: _read(f, flags[f.name], _flag(f.name)) for f in _table() if f.name in flags},
        }
        home = values.get("home")
        try:
            values["home"] = home or paths.home_path(environ)
            # A home of the file or of a flag moves the socket with it, unless the socket is named too.
            values["socket"] = values.get("socket") or paths.socket_path(environ, home)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        return cls(environ=dict(environ), **values)

    @property
    def places(self) -> Home:
        """The state folder's layout."""
        return Home(self.home)


def _table() -> tuple[dataclasses.Field[Any], ...]:
    return tuple(f for f in dataclasses.fields(Settings) if "help" in f.metadata)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _kind(name: str) -> Any:
    hint = typing.get_type_hints(Settings)[name]
    if typing.get_origin(hint) is types.UnionType:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _from_file(named: str | None, default: Path) -> dict[str, Any]:
    try:
        path = paths.absolute(named) if named else default
    except ValueError as error:
        raise InvalidRequest(f"{error} It is named by --config or {CONFIG_VARIABLE}.") from None
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise InvalidRequest(f"There is no file {path}; correct --config or {CONFIG_VARIABLE}.") from None
        return {}
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be read ({error.strerror}); let this user read it, or name another one."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path} is not TOML: {error}.") from error
    known = {f.name: f for f in _table()}
    if unknown := sorted(set(found) - set(known)):
        raise InvalidRequest(f"{path}: {unknown[0]!r} is not a setting; the settings are {', '.join(known)}.")
    return {name: _read(known[name], value, f"{path}: {name}") for name, value in found.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {PREFIX + f.name.upper(): f for f in _table() if not f.metadata["in_file_only"]}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and name != CONFIG_VARIABLE and name not in _OF_OTHERS:
            raise InvalidRequest(f"{name}, in the environment, is not a setting; unset it, or see `smolorad serve --help`.")
    return {f.name: _read(f, environ[name], name) for name, f in known.items() if environ.get(name)}


def _read(f: dataclasses.Field[Any], raw: Any, where: str) -> Any:
    """A setting's value from a string, or from TOML's own type; `where` names the key in the error."""
    kind = _kind(f.name)
    try:
        value = _READERS[kind](raw)
    except (ValueError, TypeError, RuntimeError):  # the last one: no such user in `~user`
        wanted = f"one of {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else _WANTED[kind]
        raise InvalidRequest(f"{where} is {raw!r}, but must be {wanted}.") from None
    if f.metadata["choices"] and value not in f.metadata["choices"]:
        raise InvalidRequest(f"{where} is {raw!r}, but must be one of {', '.join(f.metadata['choices'])}.")
    if isinstance(value, (int, float)) and not f.metadata["bounds"].allow(value):
        raise InvalidRequest(f"{where} is {raw!r}, but must be {f.metadata['bounds']}.")
    return value


def read_duration(raw: Any) -> timedelta:
    """`30m`, `1h30m`, `500ms`, or seconds as a number; negative is for ever. Raises ValueError."""
    if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
        raise TypeError(raw)
    text = str(raw).strip()
    try:
        if re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+", text):
            return timedelta(seconds=float(text))
        if not re.fullmatch(r"-?([0-9]*\.?[0-9]+(h|ms|m|s))+", text):
            raise ValueError(raw)
        parts = re.findall(r"([0-9]*\.?[0-9]+)(h|ms|m|s)", text)
        seconds = sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)
        return timedelta(seconds=-seconds if text.startswith("-") else seconds)
    except OverflowError:
        raise ValueError(raw) from None


def _show(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds() / 60:g}m"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise TypeError(raw)
    return raw


def _integer(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, (str, int)):
        raise TypeError(raw)
    return int(raw)


def _number(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
        raise TypeError(raw)
    return float(raw)


def _truth(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    word = _text(raw).lower()
    if word not in _TRUTHS:
        raise ValueError(raw)
    return _TRUTHS[word]


def _names(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list):
        raise TypeError(raw)
    return tuple(_text(one) for one in raw)


_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_READERS: Mapping[Any, Callable[[Any], Any]] = {
    Path: lambda raw: paths.strip_scheme(_text(raw)),
    str: _text,
    int: _integer,
    float: _number,
    bool: _truth,
    timedelta: read_duration,
    Device: lambda raw: Device(_text(raw)),
    Dtype: lambda raw: Dtype(_text(raw)),
    Precision: lambda raw: Precision(_text(raw)),
    KvDtype: lambda raw: KvDtype(_text(raw)),
    tuple[str, ...]: _names,
}
_WANTED: Mapping[Any, str] = {
    Path: "a path",
    str: "a text that is not empty",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    timedelta: "a duration such as 30m, 1h or 90, or -1 for ever",
    tuple[str, ...]: "a list of texts",
}
_METAVARS: Mapping[Any, str] = {Path: "PATH", str: "TEXT", int: "N", float: "SECONDS", timedelta: "DURATION"}
