"""Keyword arguments into the contract's settings; a name that does not exist is refused with the nearest one that does."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from google.protobuf.duration_pb2 import Duration

from smolora import _values as models
from smolora._convert import enum_prefix
from smolora._errors import InvalidRequest
from smolora._fields import LORA, PREPARE, SAMPLING, TRAINER, Field
from smolora.v1 import datasets_pb2, generation_pb2, settings_pb2

P = ParamSpec("P")
T = TypeVar("T")

_LORA = {field.name: field for field in LORA}
_TRAINER = {field.name: field for field in TRAINER}
_SAMPLING = {field.name: field for field in SAMPLING}
_PREPARE = {field.name: field for field in PREPARE}
_PREPARE_ENUMS = {
    "file_type": datasets_pb2.FileType,
    "on_error": datasets_pb2.OnError,
    "shape": datasets_pb2.Shape,
    "text_unit": datasets_pb2.TextUnit,
    "chunk_unit": datasets_pb2.ChunkUnit,
    "splits": datasets_pb2.Splits,
}
_TYPE_NAMES = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "True or False"}
_TYPE_NAMES |= {"strs": "strings", "ints": "whole numbers", "map": "whole numbers by module name", "names": "names by name"}
_TYPE_NAMES |= {"floats": "numbers by token id"}


def fill(kind: Callable[P, T], *args: P.args, **fields: P.kwargs) -> T:
    """A message of the contract with these fields.

    Raises InvalidRequest for text that cannot be sent: Python keeps the bytes of an argument that is no UTF-8 as surrogates.
    """
    try:
        return kind(*args, **fields)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def train_settings(given: Mapping[str, Any]) -> tuple[settings_pb2.LoraSettings, settings_pb2.TrainerSettings]:
    """The two messages of a training's keywords. None leaves a setting at the daemon's default.

    Raises TypeError for an unknown name, and for a value that its setting cannot hold.
    """
    lora, trainer = settings_pb2.LoraSettings(), settings_pb2.TrainerSettings()
    for name, value in given.items():
        if name in _LORA:
            _set(lora, _LORA[name], value)
        elif name in _TRAINER:
            _set(trainer, _TRAINER[name], value)
        else:
            raise _unknown("train", name, [*_LORA, *_TRAINER], "LoraSettings and TrainerSettings")
    return lora, trainer


def prepare_settings(given: Mapping[str, Any]) -> datasets_pb2.PrepareDatasetRequest:
    """A request with a preparation's keywords. None leaves a setting at the daemon's default.

    Raises TypeError for an unknown name, and for a value that its setting cannot hold; InvalidRequest for no choice of an enum.
    """
    request = datasets_pb2.PrepareDatasetRequest()
    for name, value in given.items():
        if name not in _PREPARE:
            raise _unknown("prepare", name, _PREPARE, "PrepareDatasetRequest")
        if name in _PREPARE_ENUMS:
            value = enum_name(_PREPARE_ENUMS[name], value)
        _set(request, _PREPARE[name], value)
    return request


def sampling(given: Mapping[str, Any], **aliased: int | None) -> generation_pb2.Sampling:
    """How tokens are chosen; None takes the daemon's default. `aliased`: what came under a setting's other name.

    Raises TypeError for an unknown name, and for a value that its setting cannot hold; InvalidRequest for both names of one.
    """
    message = generation_pb2.Sampling()
    for name, value in given.items():
        if name not in _SAMPLING:
            raise _unknown("generate", name, _SAMPLING, "Sampling")
        _set(message, _SAMPLING[name], value)
    for name, value in aliased.items():
        if value is not None and given.get(name) is not None:
            other = name.replace("_", "_new_")
            raise InvalidRequest(f"{name} and {other} are two names of one setting; give one of them.")
        _set(message, _SAMPLING[name], value)
    return message


def response_format(
    json_schema: str | Mapping[str, Any] | None, json_object: bool, regex: str | None
) -> generation_pb2.ResponseFormat | None:
    """The form of an answer; None for none. Raises InvalidRequest where several are given."""
    given = [name for name, value in (("json_schema", json_schema), ("regex", regex)) if value is not None]
    if len(given) + json_object > 1:
        raise InvalidRequest("json_schema, json_object and regex are three forms of an answer; give one of them.")
    if json_schema is not None:
        text = json_schema if isinstance(json_schema, str) else json.dumps(json_schema)
        return fill(generation_pb2.ResponseFormat, json_schema=text)
    if regex is not None:
        return fill(generation_pb2.ResponseFormat, regex=regex)
    return generation_pb2.ResponseFormat(json_object=True) if json_object else None


def _unknown(method: str, name: str, known: Iterable[str], where: str) -> TypeError:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; the settings are those of {where}."
    return TypeError(f"{method}() has no setting {name!r}{hint}")


def _set(message: Any, field: Field, value: Any) -> None:
    if value is None:
        return
    if field.name == "init_lora_weights" and isinstance(value, bool):  # PEFT writes True, the contract `true`
        value = str(value).lower()
    try:
        if field.kind in ("map", "names"):
            getattr(message, field.name).update(value)
        elif field.kind == "floats":  # OpenAI's clients write the ids as text
            getattr(message, field.name).update({int(key): float(number) for key, number in value.items()})
        elif field.kind in ("strs", "ints"):
            getattr(message, field.name).extend([value] if isinstance(value, str) else value)
        else:
            setattr(message, field.name, value)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None
    except (TypeError, ValueError, AttributeError):
        raise TypeError(f"{field.name} takes {_TYPE_NAMES.get(field.kind, field.kind)}, not {value!r}") from None


def _not_text(error: UnicodeEncodeError) -> InvalidRequest:
    near = error.object[max(0, error.start - 20) : error.start + 20]
    return InvalidRequest(f"This is not UTF-8 text, from character {error.start + 1} on: {near!r}; save or type it as UTF-8.")


def hub_dataset(hub: str | models.HubDataset | None) -> datasets_pb2.HubDataset | None:
    """A dataset of the hub, also by its id alone."""
    if hub is None:
        return None
    one = models.HubDataset(hub) if isinstance(hub, str) else hub
    return fill(datasets_pb2.HubDataset, repo_id=one.repo_id, config=one.config, split=one.split, revision=one.revision)


def conversation(
    messages: Iterable[models.ChatMessage | Mapping[str, str]] | None,
) -> list[generation_pb2.ChatMessage]:
    """The turns of a conversation, each a ChatMessage or a mapping with `role` and `content`."""
    turns = []
    for turn in messages or ():
        try:
            role, content = (turn["role"], turn["content"]) if isinstance(turn, Mapping) else (turn.role, turn.content)
        except (KeyError, AttributeError):
            raise TypeError(f"a message has a role and a content; this one lacks one: {turn!r}") from None
        turns.append(fill(generation_pb2.ChatMessage, role=role, content=content))
    return turns


def duration(seconds: float | timedelta | None) -> Duration | None:
    """A duration; None stays unset. Raises InvalidRequest for what is none."""
    if seconds is None:
        return None
    message = Duration()
    try:
        message.FromTimedelta(seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds))
    except (OverflowError, ValueError):  # infinity, NaN, or more days than a timedelta has
        raise InvalidRequest(f"{seconds} is not a duration; give seconds, or -1 for ever.") from None
    return message


def enum_name(enum: Any, value: str | None) -> Any:
    """An enum's full name (`DTYPE_BFLOAT16`) for its short one (`bfloat16`); None for None.

    Raises InvalidRequest that names the choices.
    """
    if value is None:
        return None
    prefix = enum_prefix(enum.DESCRIPTOR)
    choices = [name.removeprefix(prefix).lower() for name, number in enum.items() if number]
    if value not in choices:
        keyword = re.sub(r"\B(?=[A-Z])", "_", enum.DESCRIPTOR.name).lower()  # `kv_dtype` for KvDtype
        raise InvalidRequest(f"{keyword} {value!r} is not known; choose one of {', '.join(choices)}.")
    return prefix + value.upper()
