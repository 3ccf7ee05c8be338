"""What a model takes in memory, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from smolorad.domain.models import Device, Dtype, KvDtype, Precision


@dataclass(frozen=True, slots=True)
class LoadChoice:
    """One way to load a model; the total includes the KV cache of a sequence that fills the context."""

    precision: Precision
    dtype: Dtype
    weight_bytes: int
    total_bytes: int
    fits: bool
    fitting_context: int


@dataclass(frozen=True, slots=True)
class LoadEstimate:
    """What a model takes as it was requested, what is free, and what else there is to choose."""

    name: str
    device: Device
    dtype: Dtype
    precision: Precision
    weight_bytes: int  # that stay in memory
    cache_bytes: int  # of a sequence that fills the context
    context_length: int
    cache_token_bytes: int
    workspace_bytes: int
    total_bytes: int
    free_bytes: int  # now
    memory_bytes: int  # of the machine, the container or the GPU
    fits: bool  # with a sequence that fills the context
    fitting_context: int  # tokens of the longest sequence with which it fits
    choices: tuple[LoadChoice, ...] = ()
    kv_dtype: KvDtype | None = None
    advice: str = ""  # what would fit, where a short sequence does not
