"""Jobs and their events."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


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
    PAUSED = "paused"  # paused until it is resumed


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: a reason, and one sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StateChange:
    """The job's state changed."""

    state: JobState
    why: str


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a training is. Losses are natural logarithms per scored token."""

    step: int
    max_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    eta_s: float
    tokens: int
    scored_tokens: int = 0
    reward_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out loss after `step`; 0 is before training."""

    step: int
    loss: float
    perplexity: float
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint stands on disk."""

    step: int


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """How far a phase of other work is; `total` is 0 where it is not known."""

    phase: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The adapter's answer, after `step`, to one of `sample_prompts`."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training is expected to take; memory besides the loaded model."""

    memory_bytes: int
    available_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing."""

    text: str


EventBody = StateChange | TrainProgress | Evaluation | Checkpoint | PhaseProgress | Sample | Estimate | Note


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job; `sequence` counts from 1 within the job.

    `kind` names the body as the contract does: `state`, `train`, `evaluation`, `checkpoint`, `phase`, `sample`,
    `estimate` or `note`.
    """

    job_id: str
    sequence: int
    time: datetime
    kind: str
    body: EventBody


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of durable work."""

    id: str
    kind: JobKind
    state: JobState
    target: str
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    last_sequence: int
    queue_position: int
    attempts: int
    error: JobError | None
    result: str
    progress: TrainProgress | None
    request_id: str
    waiting_for: str = ""
