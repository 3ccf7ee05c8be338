"""The choices of the contract, as strings."""

from __future__ import annotations

import enum


class FinishReason(enum.StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its answer, or a stop string was met
    LENGTH = "length"  # max_tokens, or the end of the context, was reached
    CANCELLED = "cancelled"


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


class Dtype(enum.StrEnum):
    """The number format of weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Shape(enum.StrEnum):
    """What the rows of a dataset are: its columns are those that TRL calls standard."""

    TEXT = "text"  # text
    PROMPT_COMPLETION = "prompt_completion"  # prompt, completion
    CHAT = "chat"  # messages
    PREFERENCE = "preference"  # prompt, chosen, rejected


class ProblemKind(enum.StrEnum):
    """What may be wrong with a row of a dataset."""

    MALFORMED = "malformed"  # left out, as the next six are
    ENCODING = "encoding"
    MIXED_SHAPES = "mixed_shapes"
    EMPTY_COMPLETION = "empty_completion"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    FILTERED = "filtered"
    TEMPLATE = "template"  # kept, as the next seven are
    FULLY_MASKED = "fully_masked"
    TARGET_TRUNCATED = "target_truncated"
    BEYOND_CONTEXT = "beyond_context"
    MISSING_EOS = "missing_eos"
    CONTROL_CHARACTERS = "control_characters"
    MOJIBAKE = "mojibake"
    BOILERPLATE = "boilerplate"
    IN_TWO_SPLITS = "in_two_splits"  # left out, as EMPTY is
    EMPTY = "empty"
    CONTROL_TOKENS = "control_tokens"  # kept, as the next is
    SHARED_PROMPT = "shared_prompt"


class JobKind(enum.StrEnum):
    """What a job does."""

    PREPARE = "prepare"
    TRAIN = "train"
    MERGE = "merge"
    IMPORT = "import"


class JobState(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # waits for its turn
    RUNNING = "running"  # at work
    INTERRUPTED = "interrupted"  # its process died or the daemon stopped; it goes back to the queue by itself
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"  # held until it is resumed


class LoadStage(enum.StrEnum):
    """How far a loading is."""

    DOWNLOAD = "download"
    READ = "read"
    MOVE = "move"
    WARM_UP = "warm_up"


class EngineState(enum.StrEnum):
    """What the engine does."""

    OFF = "off"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
