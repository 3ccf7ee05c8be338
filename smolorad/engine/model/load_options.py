"""How a model is to be loaded."""

from __future__ import annotations

from dataclasses import dataclass

from smolorad.domain import Device, Dtype, KvDtype, Precision


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a caller asks for; the fields are named as those of the `Load` command. None chooses."""

    device: Device | None = None
    dtype: Dtype | None = None
    precision: Precision = Precision.EXACT  # how generation reads the weights
    kv_dtype: KvDtype | None = None  # of KV caches; by default that of the weights
    trust_remote_code: bool = False  # whether the owner allows code that is in the model's folder
