"""What went wrong in a library, in the words of `errors.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from smolorad.errors import Internal, OutOfMemory, SmoloraError, UnsupportedModel, is_disk_full, of_system

# On the CPU and on MPS torch says so with a plain RuntimeError.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or of torch means that memory does not suffice."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # who has not imported it has no error of it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


# How libraries refuse what they are asked for. RuntimeError includes NotImplementedError and torch's own errors.
_REFUSALS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, re.error)


@contextmanager
def refused(what: str, of_value: type[SmoloraError] = UnsupportedModel) -> Iterator[None]:
    """What a library refuses inside is refused as UnsupportedModel, with `what` and the library's reason as one sentence.

    A ValueError, by which libraries name what does not fit, becomes `of_value`.
    """
    try:
        yield
    except _REFUSALS as error:
        if is_out_of_memory(error) or is_disk_full(error):
            raise
        kind = of_value if isinstance(error, ValueError) else UnsupportedModel
        raise kind(f"{what}: {first_line(error)}") from error


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust panicked. Python is given that as an error that is no Exception, and that has no name."""
    return type(error).__name__ == "PanicException"


def explain(error: BaseException) -> SmoloraError:
    """The error that a caller is told; Internal for what we did not foresee."""
    if isinstance(error, SmoloraError):
        return error
    if is_panic(error):
        return UnsupportedModel(f"The model's tokenizer cannot read this ({first_line(error)}); choose another model or text.")
    if is_out_of_memory(error):
        return OutOfMemory("Memory does not suffice for this; use a smaller model, a shorter text or smaller batches.")
    if (known := of_system(error)) is not None:
        return known
    return Internal(f"This is a bug of smolora, told in full in its log: {type(error).__name__}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The beginning of an error's message, fit for a sentence."""
    return next(iter(str(error).strip().splitlines()), "no message")[:300]
