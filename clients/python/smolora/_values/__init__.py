"""What calls return: frozen values with the contract's field names.

Times are aware datetimes in UTC, enums are lower-case strings (`job.state == "running"`), repeated fields are tuples. Where a
field may be None, its comment in `proto/smolora/v1` says when. `smolora._convert` fills them from messages by name.
"""

from __future__ import annotations

from smolora._values.adapters import Adapter
from smolora._values.datasets import (
    Dataset,
    DatasetDiff,
    DatasetReport,
    Finding,
    HubDataset,
    LengthBin,
    Preview,
    PreviewRow,
    RowSpan,
    Shape,
)
from smolora._values.generation import (
    ChatMessage,
    FinishReason,
    GenerateOutcome,
    Sampling,
    Timings,
    TokenCount,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from smolora._values.jobs import (
    Checkpoint,
    Estimate,
    Evaluation,
    EventBody,
    Job,
    JobError,
    JobEvent,
    JobKind,
    JobState,
    Note,
    PhaseProgress,
    Sample,
    StateChange,
    TrainProgress,
)
from smolora._values.models import (
    Device,
    Dtype,
    LoadChoice,
    LoadEstimate,
    LoadProgress,
    LoadStage,
    MergeProof,
    Model,
    Origin,
    Precision,
    ResidentModel,
)
from smolora._values.settings import LoraSettings, TrainerSettings
from smolora._values.system import EngineState, Status
from smolora.common.problems import ProblemKind, RowProblem

__all__ = [
    "Adapter",
    "ChatMessage",
    "Checkpoint",
    "Dataset",
    "DatasetDiff",
    "DatasetReport",
    "Device",
    "Dtype",
    "EngineState",
    "Estimate",
    "Evaluation",
    "EventBody",
    "Finding",
    "FinishReason",
    "GenerateOutcome",
    "HubDataset",
    "Job",
    "JobError",
    "JobEvent",
    "JobKind",
    "JobState",
    "LengthBin",
    "LoadChoice",
    "LoadEstimate",
    "LoadProgress",
    "LoadStage",
    "LoraSettings",
    "MergeProof",
    "Model",
    "Note",
    "Origin",
    "PhaseProgress",
    "Precision",
    "Preview",
    "PreviewRow",
    "ProblemKind",
    "ResidentModel",
    "RowProblem",
    "RowSpan",
    "Sample",
    "Sampling",
    "Shape",
    "StateChange",
    "Status",
    "Timings",
    "TokenCount",
    "TokenLogprob",
    "TopLogprob",
    "TrainProgress",
    "TrainerSettings",
    "Usage",
]
