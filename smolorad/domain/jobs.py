"""Durable work: its states, the moves between them, what it was asked to do and what happened to it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from smolorad.domain.datasets import PrepareSpec
from smolorad.domain.models import Dtype
from smolorad.domain.settings import LoraSettings, TrainerSettings
from smolorad.errors import BadState, Violation


class JobKind(enum.StrEnum):
    """The kinds of jobs."""

    PREPARE = "prepare"
    TRAIN = "train"
    MERGE = "merge"
    IMPORT = "import"


class JobState(enum.StrEnum):
    """The states of a job."""

    QUEUED = "queued"  # waits for its turn
    RUNNING = "running"  # at work
    INTERRUPTED = "interrupted"  # its process died or the daemon stopped; it goes back to the queue by itself
    SUCCEEDED = "succeeded"  # ended, with a result
    FAILED = "failed"  # ended, with an error
    CANCELLED = "cancelled"  # ended on request
    PAUSED = "paused"  # stopped on request, until it is resumed


MOVES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED, JobState.PAUSED}
    ),
    JobState.INTERRUPTED: frozenset({JobState.QUEUED, JobState.PAUSED, JobState.FAILED, JobState.CANCELLED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.SUCCEEDED: frozenset(),
}
TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """What to train on what. The job's file fills `dataset`, `model` in: full references, never "the newest"."""

    dataset: str
    adapter: str
    model: str = ""
    lora: LoraSettings = field(default_factory=LoraSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    parent: str = ""  # the adapter whose training it continues


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """Which adapter becomes which model."""

    adapter: str
    name: str
    dtype: Dtype | None = None  # None: the one its base had in memory when the adapter was trained


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """Which model is copied in, under which name."""

    source: str
    name: str
    revision: str = ""


JobSpec = PrepareSpec | TrainSpec | MergeSpec | ImportSpec
SPEC_OF: Mapping[JobKind, type[JobSpec]] = {
    JobKind.PREPARE: PrepareSpec,
    JobKind.TRAIN: TrainSpec,
    JobKind.MERGE: MergeSpec,
    JobKind.IMPORT: ImportSpec,
}


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: a reason of `errors.py`, one sentence, and the fields or lines at fault."""

    reason: str
    message: str
    violations: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class StateChange:
    """The job's state changed."""

    state: JobState
    why: str = ""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Progress of a training. Losses are natural logarithms per scored token."""

    step: int
    max_steps: int
    epoch: float = 0.0
    loss: float = 0.0
    learning_rate: float = 0.0
    grad_norm: float = 0.0
    tokens_per_second: float = 0.0
    eta_s: float = 0.0
    tokens: int = 0
    scored_tokens: int = 0
    reward_accuracy: float | None = None  # of preference pairs


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
    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """The adapter's answer, after `step`, to a prompt of the settings."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training is expected to take."""

    memory_bytes: int  # besides the loaded model
    available_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user."""

    text: str


EventBody = StateChange | TrainProgress | Evaluation | Checkpoint | PhaseProgress | Sample | Estimate | Note
EVENT_KINDS: Mapping[str, type[EventBody]] = {
    "state": StateChange,
    "train": TrainProgress,
    "evaluation": Evaluation,
    "checkpoint": Checkpoint,
    "phase": PhaseProgress,
    "sample": Sample,
    "estimate": Estimate,
    "note": Note,
}


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job; `sequence` counts from 1 within the job, without gaps."""

    job_id: str
    sequence: int
    time: datetime
    body: EventBody


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of durable work."""

    id: str
    kind: JobKind
    state: JobState
    target: str
    spec: JobSpec
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    last_sequence: int = 0
    attempts: int = 0
    error: JobError | None = None
    result: str = ""
    progress: TrainProgress | None = None
    request_id: str = ""

    def moved(self, to: JobState) -> Job:
        """The job in its next state; raises BadState where the table of moves does not allow it."""
        if to not in MOVES[self.state]:
            raise BadState(
                f"Job {self.id} is {self.state}, so it cannot become {to}; see `smolora-client jobs show {self.id}`."
            )
        return dataclasses.replace(self, state=to)
