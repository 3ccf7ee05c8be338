from smolora.v1 import common_pb2 as _common_pb2
from smolora.v1 import jobs_pb2 as _jobs_pb2
from smolora.v1 import models_pb2 as _models_pb2
from smolora.v1 import settings_pb2 as _settings_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainRequest(_message.Message):
    __slots__ = ("dataset", "adapter", "model", "lora", "trainer", "request_id", "parent")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    adapter: str
    model: str
    lora: _settings_pb2.LoraSettings
    trainer: _settings_pb2.TrainerSettings
    request_id: str
    parent: str
    def __init__(self, dataset: _Optional[str] = ..., adapter: _Optional[str] = ..., model: _Optional[str] = ..., lora: _Optional[_Union[_settings_pb2.LoraSettings, _Mapping]] = ..., trainer: _Optional[_Union[_settings_pb2.TrainerSettings, _Mapping]] = ..., request_id: _Optional[str] = ..., parent: _Optional[str] = ...) -> None: ...

class TrainResponse(_message.Message):
    __slots__ = ("job_event", "adapter")
    JOB_EVENT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    job_event: _jobs_pb2.JobEvent
    adapter: _models_pb2.Adapter
    def __init__(self, job_event: _Optional[_Union[_jobs_pb2.JobEvent, _Mapping]] = ..., adapter: _Optional[_Union[_models_pb2.Adapter, _Mapping]] = ...) -> None: ...

class MergeRequest(_message.Message):
    __slots__ = ("adapter", "name", "request_id", "dtype")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    name: str
    request_id: str
    dtype: _common_pb2.Dtype
    def __init__(self, adapter: _Optional[str] = ..., name: _Optional[str] = ..., request_id: _Optional[str] = ..., dtype: _Optional[_Union[_common_pb2.Dtype, str]] = ...) -> None: ...

class MergeResponse(_message.Message):
    __slots__ = ("job_event", "model")
    JOB_EVENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    job_event: _jobs_pb2.JobEvent
    model: _models_pb2.Model
    def __init__(self, job_event: _Optional[_Union[_jobs_pb2.JobEvent, _Mapping]] = ..., model: _Optional[_Union[_models_pb2.Model, _Mapping]] = ...) -> None: ...
