"""Which of transformers' modules compute alike: each model has classes of its own, whose code is mostly that of a few."""

from __future__ import annotations

import functools
import inspect
from types import CodeType, FunctionType
from typing import Any


@functools.lru_cache(maxsize=1024)
def alike(kind: type, reference: type, helpers: tuple[str, ...] = ()) -> bool:
    """Whether two classes have the same `forward`, and the same of what it calls: methods or functions of their modules."""
    return kind is reference or all(
        (mine := _code(kind, name)) is not None and (theirs := _code(reference, name)) is not None and _same(mine, theirs)
        for name in ("forward", *helpers)
    )


def _code(kind: type, name: str) -> CodeType | None:
    found: Any = getattr(kind, name, None) or getattr(inspect.getmodule(kind), name, None)
    found = None if found is None else inspect.unwrap(found)
    return found.__code__ if isinstance(found, FunctionType) else None


def _same(left: CodeType, right: CodeType) -> bool:
    """Whether two functions do the same, whatever their docstrings say."""
    return left.co_code == right.co_code and left.co_names == right.co_names and _constants(left) == _constants(right)


def _constants(code: CodeType) -> list[Any]:
    return [constant for constant in code.co_consts if not (isinstance(constant, str) and "\n" in constant)]
