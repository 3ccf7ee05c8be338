"""Small JSON files that others wrote, read with bounds: a file may be anything, and must not cost memory or the stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_DEPTH = 50  # of lists and objects; configs have five at most
_LIMIT_BYTES = 64 * 2**20


class NotAnObject(ValueError):
    """A file that holds no JSON object; the message is the end of a sentence that begins with the file's path."""


def read_object(path: Path, limit_bytes: int = _LIMIT_BYTES) -> dict[str, Any]:
    """The object in a JSON file; raises NotAnObject, and OSError where it cannot be opened."""
    if path.is_dir():
        raise NotAnObject("is a folder")
    with path.open("rb") as file:
        return parse_object(file.read(limit_bytes + 1), limit_bytes)


def parse_object(content: bytes, limit_bytes: int = _LIMIT_BYTES) -> dict[str, Any]:
    """The object in the bytes of a JSON file; raises NotAnObject."""
    if len(content) > limit_bytes:
        raise NotAnObject(f"is not JSON (it is larger than {limit_bytes:,} bytes)")
    try:
        value = json.loads(content.decode("utf-8"))
    except RecursionError:
        raise NotAnObject("is nested too deeply") from None
    except ValueError as error:
        raise NotAnObject(f"is not JSON ({error})") from error
    if _is_deeper(value, MAX_DEPTH):  # what reads JSON goes deeper than what writes or copies it
        raise NotAnObject("is nested too deeply")
    if not isinstance(value, dict):
        raise NotAnObject("holds no JSON object")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested deeper than this."""
    level = [value]
    for _ in range(depth):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for several in inner for one in several]
    return any(isinstance(one, dict | list) for one in level)
