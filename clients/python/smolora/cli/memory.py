"""What a model takes in memory, for a person."""

from __future__ import annotations

from collections.abc import Iterator

from smolora import _values as values
from smolora.cli.output import number, size


def estimate_line(found: values.LoadEstimate) -> str:
    """An estimate in one line: before a model is read."""
    return (
        f"needs {size(found.total_bytes)}: weights {size(found.weight_bytes)}, cache {size(found.cache_bytes)} for "
        f"{number(found.context_length)} tokens, workspace {size(found.workspace_bytes)}; {size(found.free_bytes)} are free"
    )


def estimate_facts(found: values.LoadEstimate) -> Iterator[tuple[str, object]]:
    """An estimate as names and values."""
    yield "model", f"{found.name}, {found.dtype} on {found.device}{_packed(found.precision)}"
    yield "weights", size(found.weight_bytes)
    format = f" in {found.kv_dtype}" if found.kv_dtype else ""
    cache = f"{size(found.cache_bytes)} for {number(found.context_length)} tokens{format}"
    yield "cache", cache if found.cache_token_bytes else ""
    yield "workspace", size(found.workspace_bytes)
    yield "together", size(found.total_bytes)
    yield "free", f"{size(found.free_bytes)} of {size(found.memory_bytes)}"
    yield "fits", _verdict(found.fits, found.fitting_context)
    for choice in found.choices:
        if (choice.precision, choice.dtype) != (found.precision, found.dtype):
            flags = f"--precision {choice.precision}" + ("" if choice.dtype == found.dtype else f" --dtype {choice.dtype}")
            yield flags, f"{size(choice.total_bytes)}, {_verdict(choice.fits, choice.fitting_context)}"


def _packed(precision: values.Precision) -> str:
    return "" if precision is values.Precision.EXACT else f" as {precision}"


def _verdict(fits: bool, tokens: int) -> str:
    return "yes" if fits else f"up to {number(tokens)} tokens" if tokens else "no"
