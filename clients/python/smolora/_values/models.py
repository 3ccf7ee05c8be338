"""Base models, and the one that is loaded."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class Origin(enum.StrEnum):
    """Where a model or an adapter came from."""

    STARTER = "starter"
    HUB = "hub"
    FOLDER = "folder"
    MERGE = "merge"
    TRAIN = "train"


class Device(enum.StrEnum):
    """Where a model computes."""

    CPU = "cpu"
    MPS = "mps"
    CUDA = "cuda"


class Precision(enum.StrEnum):
    """How generation reads a model's weights."""

    EXACT = "exact"
    INT8 = "int8"
    INT4 = "int4"


class KvDtype(enum.StrEnum):
    """The number format of KV caches, where it is not that of the weights."""

    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class Dtype(enum.StrEnum):
    """The number format of weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class LoadStage(enum.StrEnum):
    """How far a loading is."""

    DOWNLOAD = "download"
    READ = "read"
    MOVE = "move"
    WARM_UP = "warm_up"


@dataclass(frozen=True, slots=True)
class MergeProof:
    """What Merge proved before it published a model."""

    prompts: int
    max_logit_difference: float
    bound: float
    greedy_agreement: float


@dataclass(frozen=True, slots=True)
class Model:
    """A base model of the daemon's home."""

    name: str
    create_time: datetime
    origin: Origin
    source: str
    fingerprint: str
    architecture: str
    parameters: int
    size_bytes: int
    path: str
    merge_proof: MergeProof | None
    job_id: str
    resident: bool


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """The model in memory."""

    name: str
    fingerprint: str
    architecture: str
    parameters: int
    device: Device
    dtype: Dtype
    weight_bytes: int
    context_length: int
    has_chat_template: bool
    self_test_notes: tuple[str, ...]
    load_s: float
    precision: Precision
    token_bytes: int
    decoder: str
    memory_bytes: int
    kv_dtype: KvDtype | None
    cache_token_bytes: int


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
    """What a model takes in memory, what is free, and what else there is to choose."""

    name: str
    device: Device
    dtype: Dtype
    precision: Precision
    weight_bytes: int
    cache_bytes: int
    context_length: int
    cache_token_bytes: int
    workspace_bytes: int
    total_bytes: int
    free_bytes: int
    memory_bytes: int
    fits: bool
    fitting_context: int
    choices: tuple[LoadChoice, ...]
    advice: str
    kv_dtype: KvDtype | None


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A stage of loading; bytes are 0 where they are not counted."""

    stage: LoadStage
    done_bytes: int
    total_bytes: int
    detail: str
