"""Datasets and their reports."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from smolora.common.problems import ProblemKind, RowProblem


class Shape(enum.StrEnum):
    """What the rows of a dataset are: its columns are those that TRL calls standard."""

    TEXT = "text"  # text
    PROMPT_COMPLETION = "prompt_completion"  # prompt, completion
    CHAT = "chat"  # messages
    PREFERENCE = "preference"  # prompt, chosen, rejected


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
class HubDataset:
    """A dataset of the Hugging Face hub; an empty `config`, `split` or `revision` takes the daemon's default."""

    repo_id: str
    config: str = ""
    split: str = ""
    revision: str = ""
