"""Turns the errors of libraries into those of `smolorad/errors.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from smolorad.errors import (
    Damaged,
    OutOfMemory,
    SmoloraError,
    UnsupportedModel,
    first_line,
    is_disk_full,
    is_panic,
    of_system_or_bug,
)

# On the CPU and on MPS torch says so with a plain RuntimeError.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or torch means that there is not enough memory."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # without it there are no errors of its
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


# The errors by which libraries refuse a call. RuntimeError includes NotImplementedError and torch's own errors.
_REFUSALS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, re.error)


@contextmanager
def refused(what: str, of_value: type[SmoloraError] = UnsupportedModel) -> Iterator[None]:
    """Turns a library's refusal into UnsupportedModel, with `what` and the library's reason as one sentence.

    A ValueError, by which libraries name what does not fit, becomes `of_value`.
    """
    try:
        yield
    except _REFUSALS as error:
        if is_out_of_memory(error) or is_disk_full(error):
            raise
        kind = of_value if isinstance(error, ValueError) else UnsupportedModel
        raise kind(f"{what}: {first_line(error)}") from error


@contextmanager
def reading(what: object, advice: str, kind: type[SmoloraError] = Damaged) -> Iterator[None]:
    """Turns any error of a library that reads a file into one of `kind`, with one sentence that `advice` ends.

    It is for libraries alone, which name no class for this: transformers has a class of its own for each way to be wrong beside
    every error of Python's, its models assert, and tokenizers raises plain Exception, or panics.
    """
    try:
        yield
    except SmoloraError:
        raise
    except ImportError as error:
        raise UnsupportedModel(f"{what} needs a package that is not here ({_in_a_sentence(error)}); install it.") from error
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        if is_out_of_memory(error) or is_disk_full(error) or isinstance(error, PermissionError):
            raise
        raise kind(f"{what} cannot be used ({_in_a_sentence(error)}); {advice}.") from error


def _in_a_sentence(error: BaseException) -> str:
    text = str(error) if str(error).strip() else type(error).__name__
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:300].rstrip(".")


def to_smolora_error(error: BaseException) -> SmoloraError:
    """The error to report for an exception; Internal for an unforeseen one."""
    if isinstance(error, SmoloraError):
        return error
    if is_panic(error):
        return UnsupportedModel(f"The model's tokenizer cannot read this ({first_line(error)}); choose another model or text.")
    if is_out_of_memory(error):
        return OutOfMemory("Not enough memory; use a smaller model, a shorter text or smaller batches.")
    return of_system_or_bug(error)
