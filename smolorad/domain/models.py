"""Base models: those of this home, and the one that is loaded."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class Device(enum.StrEnum):
    """Where a model computes. None in a request: choose."""

    CPU = "cpu"
    MPS = "mps"
    CUDA = "cuda"


class Dtype(enum.StrEnum):
    """The number format of weights. None in a request: choose. The values are torch's names."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Precision(enum.StrEnum):
    """How generation reads the weights. Training and merging always use exact ones."""

    EXACT = "exact"  # as they are in memory
    INT8 = "int8"
    INT4 = "int4"


class KvDtype(enum.StrEnum):
    """The number format of KV caches, where it is not that of the weights."""

    BFLOAT16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Placing:
    """How a model is to be loaded. None chooses."""

    device: Device | None = None
    dtype: Dtype | None = None
    precision: Precision = Precision.EXACT
    kv_dtype: KvDtype | None = None


class Origin(enum.StrEnum):
    """Where a model or an adapter came from."""

    STARTER = "starter"
    HUB = "hub"
    FOLDER = "folder"
    MERGE = "merge"
    TRAIN = "train"


class LoadStage(enum.StrEnum):
    """The stages of a load."""

    DOWNLOAD = "download"
    READ = "read"
    MOVE = "move"
    WARM_UP = "warm_up"


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Progress of a load; bytes are 0 where they are not counted."""

    stage: LoadStage
    done_bytes: int = 0
    total_bytes: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """The model in memory. `fingerprint` is the SHA-256 over its weights: adapters belong to a base by it."""

    name: str
    fingerprint: str
    architecture: str
    parameters: int
    device: Device
    dtype: Dtype
    weight_bytes: int
    context_length: int
    has_chat_template: bool
    self_test_notes: tuple[str, ...] = ()
    load_s: float = 0.0
    precision: Precision = Precision.EXACT
    token_bytes: int = 0  # of weights that generation reads for each token
    decoder: str = ""  # what computes a token: `native`, `packed` or `torch`
    memory_bytes: int = 0  # of all its weights while nothing is trained
    kv_dtype: KvDtype | None = None  # of KV caches; None: that of the weights
    cache_token_bytes: int = 0  # of a KV cache, for each token


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model folder says without loading it."""

    fingerprint: str
    architecture: str
    parameters: int


@dataclass(frozen=True, slots=True)
class MergeProof:
    """The comparison of a merged model with its adapter, before it is published."""

    prompts: int
    max_logit_difference: float
    bound: float
    greedy_agreement: float


@dataclass(frozen=True, slots=True)
class Model:
    """A base model of this home."""

    name: str
    create_time: datetime
    origin: Origin
    source: str
    fingerprint: str
    architecture: str
    parameters: int
    size_bytes: int
    path: str
    merge_proof: MergeProof | None = None
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """The weights worker's result: a merged model; `sums` are the SHA-256 of its files by relative path."""

    proof: MergeProof
    facts: ModelFacts
    sums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The weights worker's result: a model's files; `source` says what exactly they are."""

    path: str
    source: str
    facts: ModelFacts
