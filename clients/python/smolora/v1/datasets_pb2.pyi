import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from smolora.v1 import jobs_pb2 as _jobs_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FileType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILE_TYPE_UNSPECIFIED: _ClassVar[FileType]
    FILE_TYPE_TXT: _ClassVar[FileType]
    FILE_TYPE_JSONL: _ClassVar[FileType]
    FILE_TYPE_CSV: _ClassVar[FileType]
    FILE_TYPE_SAVED_DATASET: _ClassVar[FileType]
    FILE_TYPE_JSON: _ClassVar[FileType]
    FILE_TYPE_TSV: _ClassVar[FileType]
    FILE_TYPE_PARQUET: _ClassVar[FileType]
    FILE_TYPE_ARROW: _ClassVar[FileType]
    FILE_TYPE_MARKDOWN: _ClassVar[FileType]

class TextUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_UNIT_UNSPECIFIED: _ClassVar[TextUnit]
    TEXT_UNIT_LINE: _ClassVar[TextUnit]
    TEXT_UNIT_PARAGRAPH: _ClassVar[TextUnit]
    TEXT_UNIT_DOCUMENT: _ClassVar[TextUnit]

class ChunkUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHUNK_UNIT_UNSPECIFIED: _ClassVar[ChunkUnit]
    CHUNK_UNIT_WORDS: _ClassVar[ChunkUnit]
    CHUNK_UNIT_TOKENS: _ClassVar[ChunkUnit]
    CHUNK_UNIT_PARAGRAPHS: _ClassVar[ChunkUnit]

class Shape(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHAPE_UNSPECIFIED: _ClassVar[Shape]
    SHAPE_TEXT: _ClassVar[Shape]
    SHAPE_PROMPT_COMPLETION: _ClassVar[Shape]
    SHAPE_CHAT: _ClassVar[Shape]
    SHAPE_PREFERENCE: _ClassVar[Shape]

class Splits(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPLITS_UNSPECIFIED: _ClassVar[Splits]
    SPLITS_NAMED: _ClassVar[Splits]
    SPLITS_IGNORE: _ClassVar[Splits]

class OnError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_ERROR_UNSPECIFIED: _ClassVar[OnError]
    ON_ERROR_FAIL: _ClassVar[OnError]
    ON_ERROR_DROP: _ClassVar[OnError]

class ProblemKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROBLEM_KIND_UNSPECIFIED: _ClassVar[ProblemKind]
    PROBLEM_KIND_MALFORMED: _ClassVar[ProblemKind]
    PROBLEM_KIND_ENCODING: _ClassVar[ProblemKind]
    PROBLEM_KIND_MIXED_SHAPES: _ClassVar[ProblemKind]
    PROBLEM_KIND_EMPTY_COMPLETION: _ClassVar[ProblemKind]
    PROBLEM_KIND_DUPLICATE: _ClassVar[ProblemKind]
    PROBLEM_KIND_NEAR_DUPLICATE: _ClassVar[ProblemKind]
    PROBLEM_KIND_FILTERED: _ClassVar[ProblemKind]
    PROBLEM_KIND_TEMPLATE: _ClassVar[ProblemKind]
    PROBLEM_KIND_FULLY_MASKED: _ClassVar[ProblemKind]
    PROBLEM_KIND_TARGET_TRUNCATED: _ClassVar[ProblemKind]
    PROBLEM_KIND_BEYOND_CONTEXT: _ClassVar[ProblemKind]
    PROBLEM_KIND_MISSING_EOS: _ClassVar[ProblemKind]
    PROBLEM_KIND_CONTROL_CHARACTERS: _ClassVar[ProblemKind]
    PROBLEM_KIND_MOJIBAKE: _ClassVar[ProblemKind]
    PROBLEM_KIND_BOILERPLATE: _ClassVar[ProblemKind]
    PROBLEM_KIND_IN_TWO_SPLITS: _ClassVar[ProblemKind]
    PROBLEM_KIND_EMPTY: _ClassVar[ProblemKind]
    PROBLEM_KIND_CONTROL_TOKENS: _ClassVar[ProblemKind]
    PROBLEM_KIND_SHARED_PROMPT: _ClassVar[ProblemKind]
FILE_TYPE_UNSPECIFIED: FileType
FILE_TYPE_TXT: FileType
FILE_TYPE_JSONL: FileType
FILE_TYPE_CSV: FileType
FILE_TYPE_SAVED_DATASET: FileType
FILE_TYPE_JSON: FileType
FILE_TYPE_TSV: FileType
FILE_TYPE_PARQUET: FileType
FILE_TYPE_ARROW: FileType
FILE_TYPE_MARKDOWN: FileType
TEXT_UNIT_UNSPECIFIED: TextUnit
TEXT_UNIT_LINE: TextUnit
TEXT_UNIT_PARAGRAPH: TextUnit
TEXT_UNIT_DOCUMENT: TextUnit
CHUNK_UNIT_UNSPECIFIED: ChunkUnit
CHUNK_UNIT_WORDS: ChunkUnit
CHUNK_UNIT_TOKENS: ChunkUnit
CHUNK_UNIT_PARAGRAPHS: ChunkUnit
SHAPE_UNSPECIFIED: Shape
SHAPE_TEXT: Shape
SHAPE_PROMPT_COMPLETION: Shape
SHAPE_CHAT: Shape
SHAPE_PREFERENCE: Shape
SPLITS_UNSPECIFIED: Splits
SPLITS_NAMED: Splits
SPLITS_IGNORE: Splits
ON_ERROR_UNSPECIFIED: OnError
ON_ERROR_FAIL: OnError
ON_ERROR_DROP: OnError
PROBLEM_KIND_UNSPECIFIED: ProblemKind
PROBLEM_KIND_MALFORMED: ProblemKind
PROBLEM_KIND_ENCODING: ProblemKind
PROBLEM_KIND_MIXED_SHAPES: ProblemKind
PROBLEM_KIND_EMPTY_COMPLETION: ProblemKind
PROBLEM_KIND_DUPLICATE: ProblemKind
PROBLEM_KIND_NEAR_DUPLICATE: ProblemKind
PROBLEM_KIND_FILTERED: ProblemKind
PROBLEM_KIND_TEMPLATE: ProblemKind
PROBLEM_KIND_FULLY_MASKED: ProblemKind
PROBLEM_KIND_TARGET_TRUNCATED: ProblemKind
PROBLEM_KIND_BEYOND_CONTEXT: ProblemKind
PROBLEM_KIND_MISSING_EOS: ProblemKind
PROBLEM_KIND_CONTROL_CHARACTERS: ProblemKind
PROBLEM_KIND_MOJIBAKE: ProblemKind
PROBLEM_KIND_BOILERPLATE: ProblemKind
PROBLEM_KIND_IN_TWO_SPLITS: ProblemKind
PROBLEM_KIND_EMPTY: ProblemKind
PROBLEM_KIND_CONTROL_TOKENS: ProblemKind
PROBLEM_KIND_SHARED_PROMPT: ProblemKind

class UploadFileRequest(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("upload_id", "path", "size_bytes")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    path: str
    size_bytes: int
    def __init__(self, upload_id: _Optional[str] = ..., path: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class UploadFileResponse(_message.Message):
    __slots__ = ("upload_id", "sha256")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    sha256: str
    def __init__(self, upload_id: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class HubDataset(_message.Message):
    __slots__ = ("repo_id", "config", "split", "revision")
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    repo_id: str
    config: str
    split: str
    revision: str
    def __init__(self, repo_id: _Optional[str] = ..., config: _Optional[str] = ..., split: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class PrepareDatasetRequest(_message.Message):
    __slots__ = ("name", "upload_id", "hub", "file_type", "text_field", "chunk_size", "validation", "seed", "on_error", "model", "request_id", "shape", "columns", "text_unit", "chunk_unit", "chunk_overlap", "near_duplicates", "min_characters", "max_characters", "max_length", "delimiter", "source_fingerprint", "parse_special", "splits", "strict_groups")
    class ColumnsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    HUB_FIELD_NUMBER: _ClassVar[int]
    FILE_TYPE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ON_ERROR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    TEXT_UNIT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_UNIT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_OVERLAP_FIELD_NUMBER: _ClassVar[int]
    NEAR_DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    MIN_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DELIMITER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PARSE_SPECIAL_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    STRICT_GROUPS_FIELD_NUMBER: _ClassVar[int]
    name: str
    upload_id: str
    hub: HubDataset
    file_type: FileType
    text_field: str
    chunk_size: int
    validation: float
    seed: int
    on_error: OnError
    model: str
    request_id: str
    shape: Shape
    columns: _containers.ScalarMap[str, str]
    text_unit: TextUnit
    chunk_unit: ChunkUnit
    chunk_overlap: int
    near_duplicates: float
    min_characters: int
    max_characters: int
    max_length: int
    delimiter: str
    source_fingerprint: str
    parse_special: bool
    splits: Splits
    strict_groups: bool
    def __init__(self, name: _Optional[str] = ..., upload_id: _Optional[str] = ..., hub: _Optional[_Union[HubDataset, _Mapping]] = ..., file_type: _Optional[_Union[FileType, str]] = ..., text_field: _Optional[str] = ..., chunk_size: _Optional[int] = ..., validation: _Optional[float] = ..., seed: _Optional[int] = ..., on_error: _Optional[_Union[OnError, str]] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ..., shape: _Optional[_Union[Shape, str]] = ..., columns: _Optional[_Mapping[str, str]] = ..., text_unit: _Optional[_Union[TextUnit, str]] = ..., chunk_unit: _Optional[_Union[ChunkUnit, str]] = ..., chunk_overlap: _Optional[int] = ..., near_duplicates: _Optional[float] = ..., min_characters: _Optional[int] = ..., max_characters: _Optional[int] = ..., max_length: _Optional[int] = ..., delimiter: _Optional[str] = ..., source_fingerprint: _Optional[str] = ..., parse_special: _Optional[bool] = ..., splits: _Optional[_Union[Splits, str]] = ..., strict_groups: _Optional[bool] = ...) -> None: ...

class PrepareDatasetResponse(_message.Message):
    __slots__ = ("job_event", "dataset")
    JOB_EVENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    job_event: _jobs_pb2.JobEvent
    dataset: Dataset
    def __init__(self, job_event: _Optional[_Union[_jobs_pb2.JobEvent, _Mapping]] = ..., dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class RowProblem(_message.Message):
    __slots__ = ("file", "line", "why", "kind", "excerpt")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXCERPT_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    why: str
    kind: ProblemKind
    excerpt: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., why: _Optional[str] = ..., kind: _Optional[_Union[ProblemKind, str]] = ..., excerpt: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("kind", "rows", "examples")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    kind: ProblemKind
    rows: int
    examples: _containers.RepeatedCompositeFieldContainer[RowProblem]
    def __init__(self, kind: _Optional[_Union[ProblemKind, str]] = ..., rows: _Optional[int] = ..., examples: _Optional[_Iterable[_Union[RowProblem, _Mapping]]] = ...) -> None: ...

class LengthBin(_message.Message):
    __slots__ = ("least", "most", "rows")
    LEAST_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    least: int
    most: int
    rows: int
    def __init__(self, least: _Optional[int] = ..., most: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class DatasetReport(_message.Message):
    __slots__ = ("files", "rows_read", "rows_kept", "rows_empty", "rows_duplicate", "rows_malformed", "problems", "words", "tokens", "tokenizer", "rows_near_duplicate", "rows_filtered", "findings", "lengths", "tokens_scored", "tokens_read", "longest", "max_length", "rows_truncated", "tokens_truncated", "characters", "seconds")
    FILES_FIELD_NUMBER: _ClassVar[int]
    ROWS_READ_FIELD_NUMBER: _ClassVar[int]
    ROWS_KEPT_FIELD_NUMBER: _ClassVar[int]
    ROWS_EMPTY_FIELD_NUMBER: _ClassVar[int]
    ROWS_DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ROWS_MALFORMED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    ROWS_NEAR_DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FILTERED_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_SCORED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_READ_FIELD_NUMBER: _ClassVar[int]
    LONGEST_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ROWS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    files: int
    rows_read: int
    rows_kept: int
    rows_empty: int
    rows_duplicate: int
    rows_malformed: int
    problems: _containers.RepeatedCompositeFieldContainer[RowProblem]
    words: int
    tokens: int
    tokenizer: str
    rows_near_duplicate: int
    rows_filtered: int
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    lengths: _containers.RepeatedCompositeFieldContainer[LengthBin]
    tokens_scored: int
    tokens_read: int
    longest: int
    max_length: int
    rows_truncated: int
    tokens_truncated: int
    characters: int
    seconds: float
    def __init__(self, files: _Optional[int] = ..., rows_read: _Optional[int] = ..., rows_kept: _Optional[int] = ..., rows_empty: _Optional[int] = ..., rows_duplicate: _Optional[int] = ..., rows_malformed: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[RowProblem, _Mapping]]] = ..., words: _Optional[int] = ..., tokens: _Optional[int] = ..., tokenizer: _Optional[str] = ..., rows_near_duplicate: _Optional[int] = ..., rows_filtered: _Optional[int] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., lengths: _Optional[_Iterable[_Union[LengthBin, _Mapping]]] = ..., tokens_scored: _Optional[int] = ..., tokens_read: _Optional[int] = ..., longest: _Optional[int] = ..., max_length: _Optional[int] = ..., rows_truncated: _Optional[int] = ..., tokens_truncated: _Optional[int] = ..., characters: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "revision", "create_time", "train_rows", "validation_rows", "report", "fingerprint", "job_id", "path", "shape", "source_fingerprint")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_ROWS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    create_time: _timestamp_pb2.Timestamp
    train_rows: int
    validation_rows: int
    report: DatasetReport
    fingerprint: str
    job_id: str
    path: str
    shape: Shape
    source_fingerprint: str
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., train_rows: _Optional[int] = ..., validation_rows: _Optional[int] = ..., report: _Optional[_Union[DatasetReport, _Mapping]] = ..., fingerprint: _Optional[str] = ..., job_id: _Optional[str] = ..., path: _Optional[str] = ..., shape: _Optional[_Union[Shape, str]] = ..., source_fingerprint: _Optional[str] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class PreviewDatasetRequest(_message.Message):
    __slots__ = ("name", "split", "offset", "limit", "model")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    split: str
    offset: int
    limit: int
    model: str
    def __init__(self, name: _Optional[str] = ..., split: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ..., model: _Optional[str] = ...) -> None: ...

class RowSpan(_message.Message):
    __slots__ = ("text", "scored")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    text: str
    scored: bool
    def __init__(self, text: _Optional[str] = ..., scored: _Optional[bool] = ...) -> None: ...

class PreviewRow(_message.Message):
    __slots__ = ("spans",)
    SPANS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[RowSpan]
    def __init__(self, spans: _Optional[_Iterable[_Union[RowSpan, _Mapping]]] = ...) -> None: ...

class PreviewDatasetResponse(_message.Message):
    __slots__ = ("rows", "total_rows", "shown")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[str]
    total_rows: int
    shown: _containers.RepeatedCompositeFieldContainer[PreviewRow]
    def __init__(self, rows: _Optional[_Iterable[str]] = ..., total_rows: _Optional[int] = ..., shown: _Optional[_Iterable[_Union[PreviewRow, _Mapping]]] = ...) -> None: ...

class DiffDatasetsRequest(_message.Message):
    __slots__ = ("before", "after", "limit")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    before: str
    after: str
    limit: int
    def __init__(self, before: _Optional[str] = ..., after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class DiffDatasetsResponse(_message.Message):
    __slots__ = ("added_rows", "removed_rows", "same_rows", "added", "removed")
    ADDED_ROWS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_ROWS_FIELD_NUMBER: _ClassVar[int]
    SAME_ROWS_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    added_rows: int
    removed_rows: int
    same_rows: int
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, added_rows: _Optional[int] = ..., removed_rows: _Optional[int] = ..., same_rows: _Optional[int] = ..., added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteDatasetResponse(_message.Message):
    __slots__ = ("revisions",)
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: int
    def __init__(self, revisions: _Optional[int] = ...) -> None: ...
