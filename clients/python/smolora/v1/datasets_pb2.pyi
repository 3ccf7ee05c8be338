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

class Shape(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHAPE_UNSPECIFIED: _ClassVar[Shape]
    SHAPE_TEXT: _ClassVar[Shape]
    SHAPE_PROMPT_COMPLETION: _ClassVar[Shape]
    SHAPE_CHAT: _ClassVar[Shape]
    SHAPE_PREFERENCE: _ClassVar[Shape]

class OnError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_ERROR_UNSPECIFIED: _ClassVar[OnError]
    ON_ERROR_FAIL: _ClassVar[OnError]
    ON_ERROR_DROP: _ClassVar[OnError]
FILE_TYPE_UNSPECIFIED: FileType
FILE_TYPE_TXT: FileType
FILE_TYPE_JSONL: FileType
FILE_TYPE_CSV: FileType
FILE_TYPE_SAVED_DATASET: FileType
SHAPE_UNSPECIFIED: Shape
SHAPE_TEXT: Shape
SHAPE_PROMPT_COMPLETION: Shape
SHAPE_CHAT: Shape
SHAPE_PREFERENCE: Shape
ON_ERROR_UNSPECIFIED: OnError
ON_ERROR_FAIL: OnError
ON_ERROR_DROP: OnError

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
    __slots__ = ("name", "upload_id", "hub", "file_type", "text_field", "chunk_size", "validation", "seed", "on_error", "model", "request_id")
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
    def __init__(self, name: _Optional[str] = ..., upload_id: _Optional[str] = ..., hub: _Optional[_Union[HubDataset, _Mapping]] = ..., file_type: _Optional[_Union[FileType, str]] = ..., text_field: _Optional[str] = ..., chunk_size: _Optional[int] = ..., validation: _Optional[float] = ..., seed: _Optional[int] = ..., on_error: _Optional[_Union[OnError, str]] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class PrepareDatasetResponse(_message.Message):
    __slots__ = ("job_event", "dataset")
    JOB_EVENT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    job_event: _jobs_pb2.JobEvent
    dataset: Dataset
    def __init__(self, job_event: _Optional[_Union[_jobs_pb2.JobEvent, _Mapping]] = ..., dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class RowProblem(_message.Message):
    __slots__ = ("file", "line", "why")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    why: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class DatasetReport(_message.Message):
    __slots__ = ("files", "rows_read", "rows_kept", "rows_empty", "rows_duplicate", "rows_malformed", "problems", "words", "tokens", "tokenizer")
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
    def __init__(self, files: _Optional[int] = ..., rows_read: _Optional[int] = ..., rows_kept: _Optional[int] = ..., rows_empty: _Optional[int] = ..., rows_duplicate: _Optional[int] = ..., rows_malformed: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[RowProblem, _Mapping]]] = ..., words: _Optional[int] = ..., tokens: _Optional[int] = ..., tokenizer: _Optional[str] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "revision", "create_time", "train_rows", "validation_rows", "report", "fingerprint", "job_id", "path", "shape")
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
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., train_rows: _Optional[int] = ..., validation_rows: _Optional[int] = ..., report: _Optional[_Union[DatasetReport, _Mapping]] = ..., fingerprint: _Optional[str] = ..., job_id: _Optional[str] = ..., path: _Optional[str] = ..., shape: _Optional[_Union[Shape, str]] = ...) -> None: ...

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
    __slots__ = ("name", "split", "offset", "limit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    split: str
    offset: int
    limit: int
    def __init__(self, name: _Optional[str] = ..., split: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class PreviewDatasetResponse(_message.Message):
    __slots__ = ("rows", "total_rows")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedScalarFieldContainer[str]
    total_rows: int
    def __init__(self, rows: _Optional[_Iterable[str]] = ..., total_rows: _Optional[int] = ...) -> None: ...

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
