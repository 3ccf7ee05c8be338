"""Datasets: what to prepare, what the report says, revisions, previews and diffs."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from smolora.common.problems import ProblemKind
from smolorad.domain.bounds import Ref, within


class FileType(enum.StrEnum):
    """The type of a file. None in a request: by the ending."""

    TXT = "txt"
    JSONL = "jsonl"
    CSV = "csv"
    SAVED_DATASET = "saved_dataset"
    JSON = "json"
    TSV = "tsv"
    PARQUET = "parquet"
    ARROW = "arrow"
    MARKDOWN = "markdown"


class TextUnit(enum.StrEnum):
    """A row of plain text. None in a request: a line, in Markdown a paragraph."""

    LINE = "line"
    PARAGRAPH = "paragraph"
    DOCUMENT = "document"


class ChunkUnit(enum.StrEnum):
    """What `chunk_size` counts."""

    WORDS = "words"
    TOKENS = "tokens"
    PARAGRAPHS = "paragraphs"


class Shape(enum.StrEnum):
    """The shape of a dataset's rows. Its folder has the columns that TRL calls standard, and no others.

    A turn of a conversation is a struct of `role` and `content`, both text; where some turn of a dataset is not trained, also
    of `weight`, 1 or 0.
    """

    TEXT = "text"  # text
    PROMPT_COMPLETION = "prompt_completion"  # prompt, completion: both text, or both lists of turns
    CHAT = "chat"  # messages: a list of turns
    PREFERENCE = "preference"  # prompt, chosen, rejected: all text, or all lists of turns


class Splits(enum.StrEnum):
    """What becomes of files, and rows, that are named as splits."""

    NAMED = "named"  # validation is held out, test is left out
    IGNORE = "ignore"


class OnError(enum.StrEnum):
    """What to do with a malformed row."""

    FAIL = "fail"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset of the Hugging Face hub."""

    repo_id: str
    config: str = ""
    split: str = "train"
    revision: str = ""


@dataclass(frozen=True, slots=True)
class PrepareSpec:
    """A request to prepare a dataset. Exactly one of `upload_id` and `hub` is given."""

    name: str
    upload_id: str = ""
    hub: HubDataset | None = None
    file_type: FileType | None = None
    text_field: str = "text"
    chunk_size: int = within(0, least=0, most=1_000_000)
    validation: float = within(0.05, least=0.0, most=0.5)
    seed: int = within(42, least=0, most=2**32 - 1)
    on_error: OnError = OnError.FAIL
    model: str = ""
    shape: Shape | None = None  # None: by the fields of the first row
    columns: Mapping[str, str] = field(default_factory=dict)
    text_unit: TextUnit | None = None
    chunk_unit: ChunkUnit = ChunkUnit.WORDS
    chunk_overlap: int = within(0, least=0, most=1_000_000)
    near_duplicates: float = within(0.0, least=0.0, most=1.0)
    min_characters: int = within(0, least=0, most=1_000_000)
    max_characters: int = within(0, least=0, most=2_000_000_000)
    max_length: int = within(1024, least=8, most=1_000_000)
    delimiter: str = ""
    source_fingerprint: str = ""
    parse_special: bool = False  # whether the spelling of a control token in a row is one
    splits: Splits = Splits.NAMED
    strict_groups: bool = False

    @property
    def asks_for_known(self) -> bool:
        """Whether it brings no files, and asks for what was made of the same ones before."""
        return bool(self.source_fingerprint) and not self.upload_id and self.hub is None


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row with a problem; `line` counts from 1, 0 where the format has none."""

    file: str
    line: int
    why: str
    kind: ProblemKind = ProblemKind.MALFORMED
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Everything of one kind: how many rows, and the first of them."""

    kind: ProblemKind
    rows: int
    examples: tuple[RowProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class LengthBin:
    """How many rows have `least` to `most` tokens."""

    least: int
    most: int
    rows: int


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """Counts of what was read, kept and dropped."""

    files: int = 0
    rows_read: int = 0
    rows_kept: int = 0
    rows_empty: int = 0
    rows_duplicate: int = 0
    rows_malformed: int = 0
    problems: tuple[RowProblem, ...] = ()
    words: int = 0
    tokens: int = 0
    tokenizer: str = ""
    rows_near_duplicate: int = 0
    rows_filtered: int = 0
    findings: tuple[Finding, ...] = ()
    lengths: tuple[LengthBin, ...] = ()
    tokens_scored: int = 0
    tokens_read: int = 0
    longest: int = 0
    max_length: int = 0
    rows_truncated: int = 0
    tokens_truncated: int = 0
    characters: int = 0
    seconds: float = 0.0


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
    """Some rows of a split: their texts, how many the split has, and the same rows with what is masked."""

    rows: tuple[str, ...]
    total_rows: int
    shown: tuple[PreviewRow, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """The rows that only the later or only the earlier of two datasets has; the first of each."""

    added_rows: int
    removed_rows: int
    same_rows: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


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
    shape: Shape = Shape.TEXT
    source_fingerprint: str = ""

    @property
    def ref(self) -> Ref:
        """`name@revision`."""
        return Ref(self.name, self.revision)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The corpus worker's result: a written dataset."""

    train_rows: int
    validation_rows: int
    report: DatasetReport
    shape: Shape = Shape.TEXT
