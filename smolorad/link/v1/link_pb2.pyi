from smolora.v1 import common_pb2 as _common_pb2
from smolora.v1 import datasets_pb2 as _datasets_pb2
from smolora.v1 import generation_pb2 as _generation_pb2
from smolora.v1 import jobs_pb2 as _jobs_pb2
from smolora.v1 import models_pb2 as _models_pb2
from smolora.v1 import settings_pb2 as _settings_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Command(_message.Message):
    __slots__ = ("call", "load", "generate", "count_tokens", "attach", "detach", "train", "prepare", "merge", "fetch", "preview", "cancel", "drain", "ping", "decode_tokens", "pause", "diff", "expect_training", "check_adapter", "estimate_load")
    CALL_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    DIFF_FIELD_NUMBER: _ClassVar[int]
    EXPECT_TRAINING_FIELD_NUMBER: _ClassVar[int]
    CHECK_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_LOAD_FIELD_NUMBER: _ClassVar[int]
    call: int
    load: Load
    generate: Generate
    count_tokens: _generation_pb2.CountTokensRequest
    attach: AdapterFolder
    detach: AdapterFolder
    train: Train
    prepare: Prepare
    merge: Merge
    fetch: Fetch
    preview: Preview
    cancel: Cancel
    drain: Drain
    ping: Ping
    decode_tokens: _generation_pb2.DecodeTokensRequest
    pause: Pause
    diff: Diff
    expect_training: ExpectTraining
    check_adapter: CheckAdapter
    estimate_load: EstimateLoad
    def __init__(self, call: _Optional[int] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., generate: _Optional[_Union[Generate, _Mapping]] = ..., count_tokens: _Optional[_Union[_generation_pb2.CountTokensRequest, _Mapping]] = ..., attach: _Optional[_Union[AdapterFolder, _Mapping]] = ..., detach: _Optional[_Union[AdapterFolder, _Mapping]] = ..., train: _Optional[_Union[Train, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., merge: _Optional[_Union[Merge, _Mapping]] = ..., fetch: _Optional[_Union[Fetch, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., decode_tokens: _Optional[_Union[_generation_pb2.DecodeTokensRequest, _Mapping]] = ..., pause: _Optional[_Union[Pause, _Mapping]] = ..., diff: _Optional[_Union[Diff, _Mapping]] = ..., expect_training: _Optional[_Union[ExpectTraining, _Mapping]] = ..., check_adapter: _Optional[_Union[CheckAdapter, _Mapping]] = ..., estimate_load: _Optional[_Union[EstimateLoad, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("call", "ready", "load_progress", "resident", "text", "outcome", "counted", "attached", "done", "train", "evaluation", "checkpoint", "phase", "note", "trained", "prepared", "merged", "fetched", "preview", "failure", "pong", "decoded", "token_logprob", "sample", "estimate", "diff", "load_estimate")
    CALL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LOAD_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    DECODED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LOGPROB_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    DIFF_FIELD_NUMBER: _ClassVar[int]
    LOAD_ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    call: int
    ready: Ready
    load_progress: _models_pb2.LoadProgress
    resident: _models_pb2.ResidentModel
    text: str
    outcome: _generation_pb2.GenerateOutcome
    counted: _generation_pb2.CountTokensResponse
    attached: Attached
    done: Done
    train: _jobs_pb2.TrainProgress
    evaluation: _jobs_pb2.Evaluation
    checkpoint: _jobs_pb2.Checkpoint
    phase: _jobs_pb2.PhaseProgress
    note: _jobs_pb2.Note
    trained: Trained
    prepared: Prepared
    merged: Merged
    fetched: Fetched
    preview: _datasets_pb2.PreviewDatasetResponse
    failure: Failure
    pong: Pong
    decoded: _generation_pb2.DecodeTokensResponse
    token_logprob: _generation_pb2.TokenLogprob
    sample: _jobs_pb2.Sample
    estimate: _jobs_pb2.Estimate
    diff: _datasets_pb2.DiffDatasetsResponse
    load_estimate: _models_pb2.LoadEstimate
    def __init__(self, call: _Optional[int] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., load_progress: _Optional[_Union[_models_pb2.LoadProgress, _Mapping]] = ..., resident: _Optional[_Union[_models_pb2.ResidentModel, _Mapping]] = ..., text: _Optional[str] = ..., outcome: _Optional[_Union[_generation_pb2.GenerateOutcome, _Mapping]] = ..., counted: _Optional[_Union[_generation_pb2.CountTokensResponse, _Mapping]] = ..., attached: _Optional[_Union[Attached, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., train: _Optional[_Union[_jobs_pb2.TrainProgress, _Mapping]] = ..., evaluation: _Optional[_Union[_jobs_pb2.Evaluation, _Mapping]] = ..., checkpoint: _Optional[_Union[_jobs_pb2.Checkpoint, _Mapping]] = ..., phase: _Optional[_Union[_jobs_pb2.PhaseProgress, _Mapping]] = ..., note: _Optional[_Union[_jobs_pb2.Note, _Mapping]] = ..., trained: _Optional[_Union[Trained, _Mapping]] = ..., prepared: _Optional[_Union[Prepared, _Mapping]] = ..., merged: _Optional[_Union[Merged, _Mapping]] = ..., fetched: _Optional[_Union[Fetched, _Mapping]] = ..., preview: _Optional[_Union[_datasets_pb2.PreviewDatasetResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ..., decoded: _Optional[_Union[_generation_pb2.DecodeTokensResponse, _Mapping]] = ..., token_logprob: _Optional[_Union[_generation_pb2.TokenLogprob, _Mapping]] = ..., sample: _Optional[_Union[_jobs_pb2.Sample, _Mapping]] = ..., estimate: _Optional[_Union[_jobs_pb2.Estimate, _Mapping]] = ..., diff: _Optional[_Union[_datasets_pb2.DiffDatasetsResponse, _Mapping]] = ..., load_estimate: _Optional[_Union[_models_pb2.LoadEstimate, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("path", "name", "device", "dtype", "trust_remote_code", "precision", "kv_dtype")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    TRUST_REMOTE_CODE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    path: str
    name: str
    device: _common_pb2.Device
    dtype: _common_pb2.Dtype
    trust_remote_code: bool
    precision: _common_pb2.Precision
    kv_dtype: _common_pb2.KvDtype
    def __init__(self, path: _Optional[str] = ..., name: _Optional[str] = ..., device: _Optional[_Union[_common_pb2.Device, str]] = ..., dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ..., trust_remote_code: _Optional[bool] = ..., precision: _Optional[_Union[_common_pb2.Precision, str]] = ..., kv_dtype: _Optional[_Union[_common_pb2.KvDtype, str]] = ...) -> None: ...

class EstimateLoad(_message.Message):
    __slots__ = ("load", "source", "cache_path", "loaded_name", "loaded_bytes")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CACHE_PATH_FIELD_NUMBER: _ClassVar[int]
    LOADED_NAME_FIELD_NUMBER: _ClassVar[int]
    LOADED_BYTES_FIELD_NUMBER: _ClassVar[int]
    load: Load
    source: str
    cache_path: str
    loaded_name: str
    loaded_bytes: int
    def __init__(self, load: _Optional[_Union[Load, _Mapping]] = ..., source: _Optional[str] = ..., cache_path: _Optional[str] = ..., loaded_name: _Optional[str] = ..., loaded_bytes: _Optional[int] = ...) -> None: ...

class ExpectTraining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AdapterFolder(_message.Message):
    __slots__ = ("key", "path", "name", "live")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    key: str
    path: str
    name: str
    live: LiveAdapter
    def __init__(self, key: _Optional[str] = ..., path: _Optional[str] = ..., name: _Optional[str] = ..., live: _Optional[_Union[LiveAdapter, _Mapping]] = ...) -> None: ...

class LiveAdapter(_message.Message):
    __slots__ = ("job_id", "step")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    step: int
    def __init__(self, job_id: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class CheckAdapter(_message.Message):
    __slots__ = ("adapter_path", "base_path", "base_name", "trust_remote_code")
    ADAPTER_PATH_FIELD_NUMBER: _ClassVar[int]
    BASE_PATH_FIELD_NUMBER: _ClassVar[int]
    BASE_NAME_FIELD_NUMBER: _ClassVar[int]
    TRUST_REMOTE_CODE_FIELD_NUMBER: _ClassVar[int]
    adapter_path: str
    base_path: str
    base_name: str
    trust_remote_code: bool
    def __init__(self, adapter_path: _Optional[str] = ..., base_path: _Optional[str] = ..., base_name: _Optional[str] = ..., trust_remote_code: _Optional[bool] = ...) -> None: ...

class Generate(_message.Message):
    __slots__ = ("request", "adapter")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    request: _generation_pb2.GenerateRequest
    adapter: AdapterFolder
    def __init__(self, request: _Optional[_Union[_generation_pb2.GenerateRequest, _Mapping]] = ..., adapter: _Optional[_Union[AdapterFolder, _Mapping]] = ...) -> None: ...

class Train(_message.Message):
    __slots__ = ("job_id", "dataset_path", "lora", "trainer", "checkpoints_path", "stage_path", "output_path", "parent_path", "tensorboard_path")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_PATH_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_PATH_FIELD_NUMBER: _ClassVar[int]
    STAGE_PATH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PATH_FIELD_NUMBER: _ClassVar[int]
    PARENT_PATH_FIELD_NUMBER: _ClassVar[int]
    TENSORBOARD_PATH_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    dataset_path: str
    lora: _settings_pb2.LoraSettings
    trainer: _settings_pb2.TrainerSettings
    checkpoints_path: str
    stage_path: str
    output_path: str
    parent_path: str
    tensorboard_path: str
    def __init__(self, job_id: _Optional[str] = ..., dataset_path: _Optional[str] = ..., lora: _Optional[_Union[_settings_pb2.LoraSettings, _Mapping]] = ..., trainer: _Optional[_Union[_settings_pb2.TrainerSettings, _Mapping]] = ..., checkpoints_path: _Optional[str] = ..., stage_path: _Optional[str] = ..., output_path: _Optional[str] = ..., parent_path: _Optional[str] = ..., tensorboard_path: _Optional[str] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("files_path", "request", "tokenizer_path", "output_path")
    FILES_PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_PATH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PATH_FIELD_NUMBER: _ClassVar[int]
    files_path: str
    request: _datasets_pb2.PrepareDatasetRequest
    tokenizer_path: str
    output_path: str
    def __init__(self, files_path: _Optional[str] = ..., request: _Optional[_Union[_datasets_pb2.PrepareDatasetRequest, _Mapping]] = ..., tokenizer_path: _Optional[str] = ..., output_path: _Optional[str] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("dataset_path", "request", "tokenizer_path")
    DATASET_PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_PATH_FIELD_NUMBER: _ClassVar[int]
    dataset_path: str
    request: _datasets_pb2.PreviewDatasetRequest
    tokenizer_path: str
    def __init__(self, dataset_path: _Optional[str] = ..., request: _Optional[_Union[_datasets_pb2.PreviewDatasetRequest, _Mapping]] = ..., tokenizer_path: _Optional[str] = ...) -> None: ...

class Diff(_message.Message):
    __slots__ = ("before_path", "after_path", "limit")
    BEFORE_PATH_FIELD_NUMBER: _ClassVar[int]
    AFTER_PATH_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    before_path: str
    after_path: str
    limit: int
    def __init__(self, before_path: _Optional[str] = ..., after_path: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class Merge(_message.Message):
    __slots__ = ("base_path", "adapter_path", "output_path", "trust_remote_code", "prompts", "dtype")
    BASE_PATH_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_PATH_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PATH_FIELD_NUMBER: _ClassVar[int]
    TRUST_REMOTE_CODE_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    base_path: str
    adapter_path: str
    output_path: str
    trust_remote_code: bool
    prompts: _containers.RepeatedScalarFieldContainer[str]
    dtype: _common_pb2.Dtype
    def __init__(self, base_path: _Optional[str] = ..., adapter_path: _Optional[str] = ..., output_path: _Optional[str] = ..., trust_remote_code: _Optional[bool] = ..., prompts: _Optional[_Iterable[str]] = ..., dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ...) -> None: ...

class Fetch(_message.Message):
    __slots__ = ("source", "revision", "output_path", "cache_path", "trust_remote_code")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PATH_FIELD_NUMBER: _ClassVar[int]
    CACHE_PATH_FIELD_NUMBER: _ClassVar[int]
    TRUST_REMOTE_CODE_FIELD_NUMBER: _ClassVar[int]
    source: str
    revision: str
    output_path: str
    cache_path: str
    trust_remote_code: bool
    def __init__(self, source: _Optional[str] = ..., revision: _Optional[str] = ..., output_path: _Optional[str] = ..., cache_path: _Optional[str] = ..., trust_remote_code: _Optional[bool] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Pause(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce", "busy_s", "rss_bytes", "adapters", "tokens_per_second", "busy_call", "cache_bytes", "prefix_cache_bytes")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BUSY_CALL_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PREFIX_CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    busy_s: float
    rss_bytes: int
    adapters: _containers.RepeatedScalarFieldContainer[str]
    tokens_per_second: float
    busy_call: int
    cache_bytes: int
    prefix_cache_bytes: int
    def __init__(self, nonce: _Optional[int] = ..., busy_s: _Optional[float] = ..., rss_bytes: _Optional[int] = ..., adapters: _Optional[_Iterable[str]] = ..., tokens_per_second: _Optional[float] = ..., busy_call: _Optional[int] = ..., cache_bytes: _Optional[int] = ..., prefix_cache_bytes: _Optional[int] = ...) -> None: ...

class Attached(_message.Message):
    __slots__ = ("parameters",)
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    parameters: int
    def __init__(self, parameters: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Trained(_message.Message):
    __slots__ = ("steps", "train_loss", "eval_loss_before", "eval_loss_after", "parameters", "lora", "scored_share")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    EVAL_LOSS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    EVAL_LOSS_AFTER_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    SCORED_SHARE_FIELD_NUMBER: _ClassVar[int]
    steps: int
    train_loss: float
    eval_loss_before: float
    eval_loss_after: float
    parameters: int
    lora: _settings_pb2.LoraSettings
    scored_share: float
    def __init__(self, steps: _Optional[int] = ..., train_loss: _Optional[float] = ..., eval_loss_before: _Optional[float] = ..., eval_loss_after: _Optional[float] = ..., parameters: _Optional[int] = ..., lora: _Optional[_Union[_settings_pb2.LoraSettings, _Mapping]] = ..., scored_share: _Optional[float] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ("train_rows", "validation_rows", "report", "shape")
    TRAIN_ROWS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_ROWS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    train_rows: int
    validation_rows: int
    report: _datasets_pb2.DatasetReport
    shape: _datasets_pb2.Shape
    def __init__(self, train_rows: _Optional[int] = ..., validation_rows: _Optional[int] = ..., report: _Optional[_Union[_datasets_pb2.DatasetReport, _Mapping]] = ..., shape: _Optional[_Union[_datasets_pb2.Shape, str]] = ...) -> None: ...

class Merged(_message.Message):
    __slots__ = ("proof", "facts", "sums")
    class SumsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROOF_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    proof: _models_pb2.MergeProof
    facts: ModelFacts
    sums: _containers.ScalarMap[str, str]
    def __init__(self, proof: _Optional[_Union[_models_pb2.MergeProof, _Mapping]] = ..., facts: _Optional[_Union[ModelFacts, _Mapping]] = ..., sums: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Fetched(_message.Message):
    __slots__ = ("path", "source", "facts")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    path: str
    source: str
    facts: ModelFacts
    def __init__(self, path: _Optional[str] = ..., source: _Optional[str] = ..., facts: _Optional[_Union[ModelFacts, _Mapping]] = ...) -> None: ...

class ModelFacts(_message.Message):
    __slots__ = ("fingerprint", "architecture", "parameters")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    architecture: str
    parameters: int
    def __init__(self, fingerprint: _Optional[str] = ..., architecture: _Optional[str] = ..., parameters: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("reason", "message", "violations")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    violations: _containers.RepeatedCompositeFieldContainer[Violation]
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., violations: _Optional[_Iterable[_Union[Violation, _Mapping]]] = ...) -> None: ...

class Violation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...
