"""What calls return: frozen values with the contract's field names.

Times are aware datetimes in UTC, enums are lower-case strings (`job.state == "running"`), repeated fields are tuples. Where a
field may be None, its comment in `proto/smolora/v1` says when. `smolora._convert` fills them from messages by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from smolora._enums import (
    Device as Device,
)
from smolora._enums import (
    Dtype as Dtype,
)
from smolora._enums import (
    EngineState as EngineState,
)
from smolora._enums import (
    FinishReason as FinishReason,
)
from smolora._enums import (
    JobKind as JobKind,
)
from smolora._enums import (
    JobState as JobState,
)
from smolora._enums import (
    LoadStage as LoadStage,
)
from smolora._enums import (
    Origin as Origin,
)
from smolora._enums import (
    Precision as Precision,
)
from smolora._enums import (
    ProblemKind as ProblemKind,
)
from smolora._enums import (
    Shape as Shape,
)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """The shape of a trained adapter, with peft.LoraConfig's names."""

    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: tuple[str, ...]
    exclude_modules: tuple[str, ...]
    bias: str
    use_rslora: bool
    use_dora: bool
    modules_to_save: tuple[str, ...]
    layers_to_transform: tuple[int, ...]
    init_lora_weights: str
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """How an adapter was trained, with trl.SFTConfig's names."""

    max_steps: int
    num_train_epochs: float | None
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    optim: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    max_length: int
    packing: bool
    gradient_checkpointing: bool
    neftune_noise_alpha: float
    seed: int
    logging_steps: int
    eval_steps: int
    per_device_eval_batch_size: int
    eval_rows: int
    save_steps: int
    save_seconds: float
    completion_only_loss: bool
    assistant_only_loss: bool
    early_stopping_patience: int
    beta: float
    sample_prompts: tuple[str, ...]
    sample_steps: int
    sample_max_tokens: int
    tensorboard: bool
    trainer: str


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row with a problem; `line` counts from 1, 0 where the format has none. `excerpt` is its first words."""

    file: str
    line: int
    why: str
    kind: ProblemKind | None = ProblemKind.MALFORMED
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything of one kind: how many rows, and the first of them."""

    kind: ProblemKind
    rows: int
    examples: tuple[RowProblem, ...]


@dataclass(frozen=True, slots=True)
class LengthBin:
    """How many rows have `least` to `most` tokens."""

    least: int
    most: int
    rows: int


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What was read, kept and dropped."""

    files: int
    rows_read: int
    rows_kept: int
    rows_empty: int
    rows_duplicate: int
    rows_malformed: int
    problems: tuple[RowProblem, ...]
    words: int
    tokens: int
    tokenizer: str
    rows_near_duplicate: int
    rows_filtered: int
    findings: tuple[Finding, ...]
    lengths: tuple[LengthBin, ...]
    tokens_scored: int
    tokens_read: int
    longest: int
    max_length: int
    rows_truncated: int
    tokens_truncated: int
    characters: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Dataset:
    """One immutable revision of a dataset."""

    name: str
    revision: int
    create_time: datetime
    train_rows: int
    validation_rows: int
    report: DatasetReport
    fingerprint: str
    job_id: str
    path: str
    shape: Shape | None
    source_fingerprint: str


@dataclass(frozen=True, slots=True)
class RowSpan:
    """A part of a row as the model reads it; what is not scored is masked."""

    text: str
    scored: bool


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A row as the model reads it."""

    spans: tuple[RowSpan, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """Some rows of a dataset, each cut at 4,096 characters, how many there are, and the same rows with what is masked."""

    rows: tuple[str, ...]
    total_rows: int
    shown: tuple[PreviewRow, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """What a later dataset has that an earlier one has not, and the reverse; the first rows of each."""

    added_rows: int
    removed_rows: int
    same_rows: int
    added: tuple[str, ...]
    removed: tuple[str, ...]


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
class Adapter:
    """One immutable revision of an adapter."""

    name: str
    revision: int
    create_time: datetime
    origin: Origin
    base_model: str
    base_fingerprint: str
    base_dtype: Dtype | None
    dataset: str
    job_id: str
    lora: LoraSettings
    trainer: TrainerSettings | None
    steps: int
    train_loss: float
    eval_loss_before: float | None
    eval_loss_after: float | None
    parameters: int
    size_bytes: int
    path: str
    parent: str
    scored_share: float


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


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A stage of loading; bytes are 0 where they are not counted."""

    stage: LoadStage
    done_bytes: int
    total_bytes: int
    detail: str


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
    """What a training is expected to take; memory besides the resident model."""

    memory_bytes: int
    available_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth telling."""

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


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation."""

    prompt_tokens: int
    completion_tokens: int
    remembered_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in seconds."""

    queued_s: float
    prefill_s: float
    decode_s: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """The effective value of every parameter of a generation."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    stop: tuple[str, ...]
    seed: int | None
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    top_h: float | None
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    min_tokens: int
    logit_bias: Mapping[int, float]
    bad_words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """A token that might have been chosen."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer, and how likely it was.

    `logprob` is the natural logarithm of its probability by the model itself, before temperature, penalties, truncation and the
    form of the answer change it; `top_logprobs` has the likeliest tokens by the same measure. `token` shows bytes that make no
    whole character as U+FFFD; `token_bytes` has them.
    """

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float
    top_logprobs: tuple[TopLogprob, ...]


@dataclass(frozen=True, slots=True)
class GenerateOutcome:
    """How a generation ended."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    sampling: Sampling
    model: str
    adapter: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of a text, as the resident model sees it."""

    tokens: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What runs, and what it uses."""

    version: str
    pid: int
    start_time: datetime
    home: str
    socket: str
    engine_state: EngineState
    engine_pid: int
    engine_restarts: int
    resident: ResidentModel | None
    adapters: tuple[str, ...]
    unload_time: datetime | None
    running_job: str
    queued_jobs: int
    active_generations: int
    daemon_rss_bytes: int
    engine_rss_bytes: int
    contract: str
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation: a role (`system`, `user`, `assistant`) and what was said."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset of the Hugging Face hub; an empty `config`, `split` or `revision` takes the daemon's default."""

    repo_id: str
    config: str = ""
    split: str = ""
    revision: str = ""
