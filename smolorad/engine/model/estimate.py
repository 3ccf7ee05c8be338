"""Whether a model fits into memory, and what would: pure arithmetic over a model's sizes and what is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smolorad.domain import Device, Dtype, KvDtype, LoadChoice, LoadEstimate, Precision
from smolorad.engine.runtime.free_memory import Memory
from smolorad.errors import OutOfMemory

# What does not fit with a sequence of this length is of no use.
SHORT_CONTEXT = 2048
ITEM_BYTES = {Dtype.FLOAT32: 4, Dtype.BFLOAT16: 2, Dtype.FLOAT16: 2}


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to load a model."""

    dtype: Dtype
    precision: Precision


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What decides how much memory a model takes."""

    weights: Mapping[Choice, int]  # bytes that stay in memory, for each way to load it; the most exact first
    cache_token_numbers: int  # of the KV cache
    context_length: int
    workspace_bytes: int
    kv_dtype: KvDtype | None = None  # of the KV cache, where it is not that of the weights
    cache_token_bytes: int = 0  # of a cache in that format


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model that is loaded, which stays until another one is."""

    name: str
    memory_bytes: int


NOTHING_LOADED = Loaded("", 0)


def estimate(
    name: str,
    device: Device,
    choice: Choice,
    sizes: ModelSizes,
    memory: Memory,
    loaded: Loaded = NOTHING_LOADED,
) -> LoadEstimate:
    """What the model called `name` takes, loaded as `choice`, and what would fit where that does not."""
    choices = {one: _load_choice(one, sizes, memory) for one in sizes.weights}
    wanted = choices[choice]
    token_bytes = _token_bytes(choice, sizes)
    return LoadEstimate(
        name=name,
        device=device,
        dtype=choice.dtype,
        precision=choice.precision,
        weight_bytes=wanted.weight_bytes,
        cache_bytes=token_bytes * sizes.context_length,
        context_length=sizes.context_length,
        cache_token_bytes=token_bytes,
        workspace_bytes=sizes.workspace_bytes,
        total_bytes=wanted.total_bytes,
        free_bytes=memory.free_bytes,
        memory_bytes=memory.total_bytes,
        fits=wanted.fits,
        fitting_context=wanted.fitting_context,
        choices=tuple(choices.values()),
        kv_dtype=sizes.kv_dtype,
        advice=_advice(name, device, choice, sizes, memory, loaded),
    )


def refuse_what_cannot_fit(found: LoadEstimate) -> None:
    """Raises OutOfMemory for a model that does not fit into all memory that there is."""
    tokens = min(found.context_length, SHORT_CONTEXT)
    if found.weight_bytes + found.workspace_bytes + found.cache_token_bytes * tokens > found.memory_bytes:
        raise OutOfMemory(found.advice)


def _token_bytes(choice: Choice, sizes: ModelSizes) -> int:
    if sizes.kv_dtype is not None:
        return sizes.cache_token_bytes
    return sizes.cache_token_numbers * ITEM_BYTES[choice.dtype]


def _load_choice(choice: Choice, sizes: ModelSizes, memory: Memory) -> LoadChoice:
    fixed, token_bytes = sizes.weights[choice] + sizes.workspace_bytes, _token_bytes(choice, sizes)
    total, left = fixed + token_bytes * sizes.context_length, memory.free_bytes - fixed
    fitting = sizes.context_length if total <= memory.free_bytes else left // token_bytes if left > 0 and token_bytes else 0
    return LoadChoice(
        precision=choice.precision,
        dtype=choice.dtype,
        weight_bytes=sizes.weights[choice],
        total_bytes=total,
        fits=total <= memory.free_bytes,
        fitting_context=fitting,
    )


def _short_bytes(choice: Choice, sizes: ModelSizes) -> int:
    """Bytes with a short sequence, or one that fills a shorter context."""
    tokens = min(sizes.context_length, SHORT_CONTEXT)
    return sizes.weights[choice] + sizes.workspace_bytes + _token_bytes(choice, sizes) * tokens


def _advice(name: str, device: Device, choice: Choice, sizes: ModelSizes, memory: Memory, loaded: Loaded) -> str:
    needed = _short_bytes(choice, sizes)
    if needed <= memory.free_bytes:
        return ""
    can_ever = needed <= memory.total_bytes
    room = memory.free_bytes if can_ever else memory.total_bytes
    there = "this machine" if device is Device.CPU else f"the {device}"
    limit = f"{gigabytes(room)} are free" if can_ever else f"{there} has {gigabytes(room)}"
    ways = []
    if can_ever and loaded.name and needed <= memory.free_bytes + loaded.memory_bytes:
        ways.append(f"`smolora-client unload` first frees the {gigabytes(loaded.memory_bytes)} of {loaded.name}")
    lighter = next((one for one in sizes.weights if _short_bytes(one, sizes) <= room), None)
    if lighter is not None:
        ways.append(f"`{_flags(lighter, choice)}` takes {gigabytes(_short_bytes(lighter, sizes))}")
    elif not ways:
        ways.append("close other programs, or choose a smaller model" if can_ever else "choose a smaller model")
    return f"{name} needs {gigabytes(needed)}, and {limit}; {', or '.join(ways)}."


def _flags(choice: Choice, instead_of: Choice) -> str:
    flags = [] if choice.dtype is instead_of.dtype else [f"--dtype {choice.dtype}"]
    if choice.precision is not instead_of.precision or not flags:
        flags.append(f"--precision {choice.precision}")
    return " ".join(flags)


def gigabytes(count: float) -> str:
    """Bytes for a person: `14.2 GB`."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
