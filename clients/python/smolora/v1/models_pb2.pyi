import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from smolora.v1 import common_pb2 as _common_pb2
from smolora.v1 import jobs_pb2 as _jobs_pb2
from smolora.v1 import settings_pb2 as _settings_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOAD_STAGE_UNSPECIFIED: _ClassVar[LoadStage]
    LOAD_STAGE_DOWNLOAD: _ClassVar[LoadStage]
    LOAD_STAGE_READ: _ClassVar[LoadStage]
    LOAD_STAGE_MOVE: _ClassVar[LoadStage]
    LOAD_STAGE_WARM_UP: _ClassVar[LoadStage]
LOAD_STAGE_UNSPECIFIED: LoadStage
LOAD_STAGE_DOWNLOAD: LoadStage
LOAD_STAGE_READ: LoadStage
LOAD_STAGE_MOVE: LoadStage
LOAD_STAGE_WARM_UP: LoadStage

class LoadModelRequest(_message.Message):
    __slots__ = ("model", "device", "dtype", "keep_alive", "precision", "dry_run", "kv_dtype")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    device: _common_pb2.Device
    dtype: _common_pb2.Dtype
    keep_alive: _duration_pb2.Duration
    precision: _common_pb2.Precision
    dry_run: bool
    kv_dtype: _common_pb2.KvDtype
    def __init__(self, model: _Optional[str] = ..., device: _Optional[_Union[_common_pb2.Device, str]] = ..., dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ..., keep_alive: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., dry_run: _Optional[bool] = ..., kv_dtype: _Optional[_Union[_common_pb2.KvDtype, str]] = ...) -> None: ...

class LoadProgress(_message.Message):
    __slots__ = ("stage", "done_bytes", "total_bytes", "detail")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    stage: LoadStage
    done_bytes: int
    total_bytes: int
    detail: str
    def __init__(self, stage: _Optional[_Union[LoadStage, str]] = ..., done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class LoadChoice(_message.Message):
    __slots__ = ("precision", "dtype", "weight_bytes", "total_bytes", "fits", "fitting_context")
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    FITTING_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    precision: _common_pb2.Precision
    dtype: _common_pb2.Dtype
    weight_bytes: int
    total_bytes: int
    fits: bool
    fitting_context: int
    def __init__(self, precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ..., weight_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., fits: _Optional[bool] = ..., fitting_context: _Optional[int] = ...) -> None: ...

class LoadEstimate(_message.Message):
    __slots__ = ("name", "device", "dtype", "precision", "weight_bytes", "cache_bytes", "context_length", "cache_token_bytes", "workspace_bytes", "total_bytes", "free_bytes", "memory_bytes", "fits", "fitting_context", "choices", "advice", "kv_dtype")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    CACHE_TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FITS_FIELD_NUMBER: _ClassVar[int]
    FITTING_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    device: _common_pb2.Device
    dtype: _common_pb2.Dtype
    precision: _common_pb2.Precision
    weight_bytes: int
    cache_bytes: int
    context_length: int
    cache_token_bytes: int
    workspace_bytes: int
    total_bytes: int
    free_bytes: int
    memory_bytes: int
    fits: bool
    fitting_context: int
    choices: _containers.RepeatedCompositeFieldContainer[LoadChoice]
    advice: str
    kv_dtype: _common_pb2.KvDtype
    def __init__(self, name: _Optional[str] = ..., device: _Optional[_Union[_common_pb2.Device, str]] = ..., dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ..., precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., weight_bytes: _Optional[int] = ..., cache_bytes: _Optional[int] = ..., context_length: _Optional[int] = ..., cache_token_bytes: _Optional[int] = ..., workspace_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., fits: _Optional[bool] = ..., fitting_context: _Optional[int] = ..., choices: _Optional[_Iterable[_Union[LoadChoice, _Mapping]]] = ..., advice: _Optional[str] = ..., kv_dtype: _Optional[_Union[_common_pb2.KvDtype, str]] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("progress", "resident", "estimate")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    progress: LoadProgress
    resident: ResidentModel
    estimate: LoadEstimate
    def __init__(self, progress: _Optional[_Union[LoadProgress, _Mapping]] = ..., resident: _Optional[_Union[ResidentModel, _Mapping]] = ..., estimate: _Optional[_Union[LoadEstimate, _Mapping]] = ...) -> None: ...

class ResidentModel(_message.Message):
    __slots__ = ("name", "fingerprint", "architecture", "parameters", "device", "dtype", "weight_bytes", "context_length", "has_chat_template", "self_test_notes", "load_s", "precision", "token_bytes", "decoder", "memory_bytes", "kv_dtype", "cache_token_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SELF_TEST_NOTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    CACHE_TOKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    architecture: str
    parameters: int
    device: _common_pb2.Device
    dtype: _common_pb2.Dtype
    weight_bytes: int
    context_length: int
    has_chat_template: bool
    self_test_notes: _containers.RepeatedScalarFieldContainer[str]
    load_s: float
    precision: _common_pb2.Precision
    token_bytes: int
    decoder: str
    memory_bytes: int
    kv_dtype: _common_pb2.KvDtype
    cache_token_bytes: int
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., architecture: _Optional[str] = ..., parameters: _Optional[int] = ..., device: _Optional[_Union[_common_pb2.Device, str]] = ..., dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ..., weight_bytes: _Optional[int] = ..., context_length: _Optional[int] = ..., has_chat_template: _Optional[bool] = ..., self_test_notes: _Optional[_Iterable[str]] = ..., load_s: _Optional[float] = ..., precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., token_bytes: _Optional[int] = ..., decoder: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., kv_dtype: _Optional[_Union[_common_pb2.KvDtype, str]] = ..., cache_token_bytes: _Optional[int] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class MergeProof(_message.Message):
    __slots__ = ("prompts", "max_logit_difference", "bound", "greedy_agreement")
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_LOGIT_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    GREEDY_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    prompts: int
    max_logit_difference: float
    bound: float
    greedy_agreement: float
    def __init__(self, prompts: _Optional[int] = ..., max_logit_difference: _Optional[float] = ..., bound: _Optional[float] = ..., greedy_agreement: _Optional[float] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "create_time", "origin", "source", "fingerprint", "architecture", "parameters", "size_bytes", "path", "merge_proof", "job_id", "resident")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MERGE_PROOF_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    create_time: _timestamp_pb2.Timestamp
    origin: _common_pb2.Origin
    source: str
    fingerprint: str
    architecture: str
    parameters: int
    size_bytes: int
    path: str
    merge_proof: MergeProof
    job_id: str
    resident: bool
    def __init__(self, name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., origin: _Optional[_Union[_common_pb2.Origin, str]] = ..., source: _Optional[str] = ..., fingerprint: _Optional[str] = ..., architecture: _Optional[str] = ..., parameters: _Optional[int] = ..., size_bytes: _Optional[int] = ..., path: _Optional[str] = ..., merge_proof: _Optional[_Union[MergeProof, _Mapping]] = ..., job_id: _Optional[str] = ..., resident: _Optional[bool] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("name", "revision", "create_time", "origin", "base_model", "base_fingerprint", "dataset", "job_id", "lora", "trainer", "steps", "train_loss", "eval_loss_before", "eval_loss_after", "parameters", "size_bytes", "path", "base_dtype", "parent", "scored_share")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    EVAL_LOSS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    EVAL_LOSS_AFTER_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BASE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SCORED_SHARE_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    create_time: _timestamp_pb2.Timestamp
    origin: _common_pb2.Origin
    base_model: str
    base_fingerprint: str
    dataset: str
    job_id: str
    lora: _settings_pb2.LoraSettings
    trainer: _settings_pb2.TrainerSettings
    steps: int
    train_loss: float
    eval_loss_before: float
    eval_loss_after: float
    parameters: int
    size_bytes: int
    path: str
    base_dtype: _common_pb2.Dtype
    parent: str
    scored_share: float
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., origin: _Optional[_Union[_common_pb2.Origin, str]] = ..., base_model: _Optional[str] = ..., base_fingerprint: _Optional[str] = ..., dataset: _Optional[str] = ..., job_id: _Optional[str] = ..., lora: _Optional[_Union[_settings_pb2.LoraSettings, _Mapping]] = ..., trainer: _Optional[_Union[_settings_pb2.TrainerSettings, _Mapping]] = ..., steps: _Optional[int] = ..., train_loss: _Optional[float] = ..., eval_loss_before: _Optional[float] = ..., eval_loss_after: _Optional[float] = ..., parameters: _Optional[int] = ..., size_bytes: _Optional[int] = ..., path: _Optional[str] = ..., base_dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ..., parent: _Optional[str] = ..., scored_share: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ImportModelRequest(_message.Message):
    __slots__ = ("source", "name", "revision", "request_id")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    source: str
    name: str
    revision: str
    request_id: str
    def __init__(self, source: _Optional[str] = ..., name: _Optional[str] = ..., revision: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class ImportModelResponse(_message.Message):
    __slots__ = ("job_event", "model")
    JOB_EVENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    job_event: _jobs_pb2.JobEvent
    model: Model
    def __init__(self, job_event: _Optional[_Union[_jobs_pb2.JobEvent, _Mapping]] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "name")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    name: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters", "next_page_token")
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    next_page_token: str
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class ImportAdapterRequest(_message.Message):
    __slots__ = ("upload_id", "name", "base_model")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    name: str
    base_model: str
    def __init__(self, upload_id: _Optional[str] = ..., name: _Optional[str] = ..., base_model: _Optional[str] = ...) -> None: ...

class ImportAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ...) -> None: ...

class ExportAdapterRequest(_message.Message):
    __slots__ = ("name", "path")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class ExportAdapterResponse(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class DeleteAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteAdapterResponse(_message.Message):
    __slots__ = ("revisions",)
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: int
    def __init__(self, revisions: _Optional[int] = ...) -> None: ...
