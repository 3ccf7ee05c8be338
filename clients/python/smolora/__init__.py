"""The Python client of smolorad: a daemon that keeps a small language model in memory, trains LoRA adapters on it, and answers.

    import smolora

    with smolora.Client() as client:
        print(client.generate("Once upon a time", max_tokens=40).text())

`AsyncClient` is the same for asyncio, `SmoLoRA` a whole fine-tune in one object; `smolora.datasets` and `smolora.local_text`
read text without a daemon. What goes wrong raises a `SmoloraError`; what comes back are frozen data classes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smolora._async.client import AsyncClient
    from smolora._async.streams import AsyncGeneration, AsyncJobRun, AsyncLoading
    from smolora._errors import (
        AlreadyExists,
        BadData,
        BadState,
        Cancelled,
        ConnectionLost,
        DaemonNotRunning,
        Damaged,
        EngineUnavailable,
        HubUnreachable,
        Internal,
        InvalidRequest,
        MergeMismatch,
        NoAccess,
        NoModel,
        NoRoom,
        NoSpace,
        NotFinite,
        NotFound,
        OutOfMemory,
        PromptTooLong,
        QueueFull,
        ShuttingDown,
        SmoloraError,
        TimedOut,
        Unreachable,
        UnsupportedModel,
        Violation,
        WrongBase,
    )
    from smolora._sync.client import Client
    from smolora._sync.streams import Generation, JobRun, Loading
    from smolora._values import (
        Adapter,
        ChatMessage,
        Checkpoint,
        Dataset,
        DatasetDiff,
        DatasetReport,
        Device,
        Dtype,
        EngineState,
        Estimate,
        Evaluation,
        Finding,
        FinishReason,
        GenerateOutcome,
        HubDataset,
        Job,
        JobError,
        JobEvent,
        JobKind,
        JobState,
        KvDtype,
        LengthBin,
        LoadChoice,
        LoadEstimate,
        LoadProgress,
        LoadStage,
        LoraSettings,
        MergeProof,
        Model,
        Note,
        Origin,
        PhaseProgress,
        Precision,
        Preview,
        PreviewRow,
        ProblemKind,
        ResidentModel,
        RowProblem,
        RowSpan,
        Sample,
        Sampling,
        Shape,
        StateChange,
        Status,
        Timings,
        TokenCount,
        TokenLogprob,
        TopLogprob,
        TrainerSettings,
        TrainProgress,
        Usage,
    )
    from smolora.lora import SmoLoRA

__all__ = [
    "Adapter",
    "AlreadyExists",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncJobRun",
    "AsyncLoading",
    "BadData",
    "BadState",
    "Cancelled",
    "ChatMessage",
    "Checkpoint",
    "Client",
    "ConnectionLost",
    "DaemonNotRunning",
    "Damaged",
    "Dataset",
    "DatasetDiff",
    "DatasetReport",
    "Device",
    "Dtype",
    "EngineState",
    "EngineUnavailable",
    "Estimate",
    "Evaluation",
    "Finding",
    "FinishReason",
    "GenerateOutcome",
    "Generation",
    "HubDataset",
    "HubUnreachable",
    "Internal",
    "InvalidRequest",
    "Job",
    "JobError",
    "JobEvent",
    "JobKind",
    "JobRun",
    "JobState",
    "KvDtype",
    "LengthBin",
    "LoadChoice",
    "LoadEstimate",
    "LoadProgress",
    "LoadStage",
    "Loading",
    "LoraSettings",
    "MergeMismatch",
    "MergeProof",
    "Model",
    "NoAccess",
    "NoModel",
    "NoRoom",
    "NoSpace",
    "NotFinite",
    "NotFound",
    "Note",
    "Origin",
    "OutOfMemory",
    "PhaseProgress",
    "Precision",
    "Preview",
    "PreviewRow",
    "ProblemKind",
    "PromptTooLong",
    "QueueFull",
    "ResidentModel",
    "RowProblem",
    "RowSpan",
    "Sample",
    "Sampling",
    "Shape",
    "ShuttingDown",
    "SmoLoRA",
    "SmoloraError",
    "StateChange",
    "Status",
    "TimedOut",
    "Timings",
    "TokenCount",
    "TokenLogprob",
    "TopLogprob",
    "TrainProgress",
    "TrainerSettings",
    "Unreachable",
    "UnsupportedModel",
    "Usage",
    "Violation",
    "WrongBase",
]

# Light ones first: an error or a data class must not cost an import of gRPC.
_HOMES = ("_errors", "_values", "_sync.client", "_sync.streams", "_async.client", "_async.streams", "lora")
_MODULES = ("datasets", "local_text")


def __getattr__(name: str) -> Any:
    # Lazy, so that `smolora.v1`, which the daemon imports, does not bring the client with it.
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(f"smolora.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    if name in _MODULES:
        return importlib.import_module(f"smolora.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
