"""Which of transformers' modules compute alike: each model has classes of its own, whose code is mostly that of a few."""

from __future__ import annotations

import functools
import inspect
from types import CodeType, FunctionType
from typing import Any


def alike(module: Any, reference: Any, helpers: tuple[str, ...] = ()) -> bool:
    """Whether a module's `forward` is that of a class, and so is what it calls: methods, or functions of the class's module."""
    kind: Any = type(module)
    return _alike(kind, reference, helpers)


@functools.lru_cache(maxsize=1024)
def _alike(kind: Any, reference: Any, helpers: tuple[str, ...]) -> bool:
    return kind is reference or all(
        (mine := _code(kind, name)) is not None and (theirs := _code(reference, name)) is not None and _same(mine, theirs)
        for name in ("forward", *helpers)
    )


def _code(kind: Any, name: str) -> CodeType | None:
    found: Any = getattr(kind, name, None) or getattr(inspect.getmodule(kind), name, None)
    found = None if found is None else inspect.unwrap(found)
    return found.__code__ if isinstance(found, FunctionType) else None


def _same(left: CodeType, right: CodeType) -> bool:
    """Whether two functions do the same, whatever their docstrings say."""
    return left.co_code == right.co_code and left.co_names == right.co_names and _constants(left) == _constants(right)


def _constants(code: CodeType) -> list[Any]:
    return [constant for constant in code.co_consts if not (isinstance(constant, str) and "\n" in constant)]
