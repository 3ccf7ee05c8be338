# GENERATED from smolora/_async/client.py by scripts/unasync.py: change that file.
"""The blocking client."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from smolora import _values as values
from smolora._channel import Address
from smolora._convert import from_message
from smolora._errors import Cancelled, InvalidRequest, NotFound, by_reason
from smolora._fields import PrepareKeywords, SamplingKeywords, TrainKeywords
from smolora._files import LocalFile, adapter_files, find_files, fingerprint, pieces
from smolora._settings import (
    conversation,
    duration,
    enum_name,
    fill,
    hub_dataset,
    prepare_settings,
    response_format,
    sampling,
    train_settings,
)
from smolora._sync.streams import JOB_IDLE_S, Generation, JobRun, Loading
from smolora._transport.threads import Stream, Transport
from smolora.common import paths
from smolora.v1 import (
    common_pb2,
    datasets_pb2,
    datasets_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)

T = TypeVar("T")
AnyPath = str | os.PathLike[str]

# An upload may take this long for each MiB, besides the ordinary deadline.
_UPLOAD_S_PER_MIB = 1.0
_PAGE = 1000


class Client:
    """Talks to the daemon on this machine.

    `socket` is its Unix socket; by default the one that SMOLORA_SOCKET or SMOLORA_HOME names, else the platform's. `timeout` is
    how many seconds a call that is not a stream may take. Nothing is sent before the first call. A call that fails raises a
    `SmoloraError`: DaemonNotRunning where nobody listens.

        with Client() as client:
            for piece in client.generate("Once upon a time"):
                print(piece, end="")
    """

    def __init__(self, socket: AnyPath | None = None, *, timeout: float = 10.0) -> None:
        self.timeout = timeout
        self._transport = Transport(Address.find(socket))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and the connection. Jobs go on."""
        self._transport.close()

    # The daemon

    def status(self) -> values.Status:
        """What runs, and what it uses."""
        answer = self._call(system_pb2_grpc.SystemServiceStub, "GetStatus", system_pb2.GetStatusRequest())
        return from_message(values.Status, answer)

    def shutdown(self, grace: float | timedelta | None = None) -> None:
        """Ends the daemon as SIGTERM does: work in progress gets `grace` seconds to reach a checkpoint."""
        request = system_pb2.ShutdownRequest(grace=duration(grace))
        self._call(system_pb2_grpc.SystemServiceStub, "Shutdown", request)

    # Datasets

    def upload(self, paths: AnyPath | Iterable[AnyPath], on_sent: Callable[[int, int], None] | None = None) -> str:
        """Sends files, and folders recursively without what begins with a dot; returns the upload's id.

        `on_sent(done, total)` is called with bytes, before each piece, in a thread.
        """
        return self._send(find_files([paths] if isinstance(paths, (str, os.PathLike)) else paths), on_sent)

    def _send(self, files: list[LocalFile], on_sent: Callable[[int, int], None] | None) -> str:
        total, done = sum(file.size_bytes for file in files), 0
        upload_id = ""

        def counted(requests: Iterator[datasets_pb2.UploadFileRequest]) -> Iterator[datasets_pb2.UploadFileRequest]:
            nonlocal done
            for request in requests:
                done += len(request.data)
                if on_sent is not None:
                    on_sent(done, total)
                yield request

        for file in files:
            deadline = self.timeout + file.size_bytes / 2**20 * _UPLOAD_S_PER_MIB
            requests = counted(pieces(file, upload_id))
            answer = self._transport.send(datasets_pb2_grpc.DatasetServiceStub, "UploadFile", requests, deadline)
            upload_id = answer.upload_id
        return upload_id

    def prepare(
        self,
        name: str,
        paths: AnyPath | Iterable[AnyPath] = (),
        *,
        upload_id: str = "",
        hub: str | values.HubDataset | None = None,
        request_id: str = "",
        on_sent: Callable[[int, int], None] | None = None,
        **settings: Unpack[PrepareKeywords],
    ) -> JobRun[values.Dataset]:
        """Makes a dataset of files and folders (`paths`), of an upload, or of a dataset of the hub; exactly one of the three.

        `settings`: those of the contract by name: `on_error="drop", chunk_size=200`. What is left out, or None, takes the
        contract's default; `model` may be a folder, as in `load`. The result is the Dataset with its report. Where the newest
        revision was made of the same files, unchanged, in the same way, that is the result, and nothing is sent. `on_sent` is
        that of `upload`.
        """
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        if [bool(given), bool(upload_id), hub is not None].count(True) != 1:
            raise InvalidRequest("prepare() takes exactly one of paths, upload_id and hub; give one of them.")
        if model := settings.get("model"):
            settings["model"] = _place(model)
        request = prepare_settings(settings)
        request.MergeFrom(fill(datasets_pb2.PrepareDatasetRequest, name=name, upload_id=upload_id, hub=hub_dataset(hub)))
        if given:
            if (known := self._prepared_before(request, given)) is not None:
                return known
            request.upload_id = self.upload(given, on_sent)
        request.MergeFrom(fill(datasets_pb2.PrepareDatasetRequest, request_id=request_id or _new_id()))
        stub = datasets_pb2_grpc.DatasetServiceStub
        return self._run_job(stub, "PrepareDataset", request, values.Dataset, self.dataset)

    def _prepared_before(
        self, request: datasets_pb2.PrepareDatasetRequest, paths: list[AnyPath]
    ) -> JobRun[values.Dataset] | None:
        """What was made of the same files in the same way, if that is the newest; notes in the request what they are."""
        request.source_fingerprint = fingerprint(find_files(paths))
        try:
            stub = datasets_pb2_grpc.DatasetServiceStub
            return self._run_job(stub, "PrepareDataset", request, values.Dataset, self.dataset)
        except NotFound:
            return None

    def datasets(self, limit: int = 100) -> list[values.Dataset]:
        """Datasets, newest first, each with its newest revision; at most `limit`."""
        request = datasets_pb2.ListDatasetsRequest()
        stub = datasets_pb2_grpc.DatasetServiceStub
        return self._list(stub, "ListDatasets", request, "datasets", values.Dataset, limit)

    def dataset(self, name: str) -> values.Dataset:
        """`name` (its newest revision) or `name@revision`, with its report."""
        request = fill(datasets_pb2.GetDatasetRequest, name=name)
        answer = self._call(datasets_pb2_grpc.DatasetServiceStub, "GetDataset", request)
        return from_message(values.Dataset, answer.dataset)

    def preview(
        self, name: str, *, split: str = "train", offset: int = 0, limit: int = 5, model: AnyPath = ""
    ) -> values.Preview:
        """Some rows, as training will read them with `model`, by default the resident one; `split`: `train`, `validation`."""
        request = fill(
            datasets_pb2.PreviewDatasetRequest, name=name, split=split, offset=offset, limit=limit, model=_place(model)
        )
        answer = self._call(datasets_pb2_grpc.DatasetServiceStub, "PreviewDataset", request)
        return from_message(values.Preview, answer)

    def diff_datasets(self, before: str, after: str, *, limit: int = 20) -> values.DatasetDiff:
        """Which rows `after` has and `before` has not, and the reverse; at most `limit` of each are told."""
        request = fill(datasets_pb2.DiffDatasetsRequest, before=before, after=after, limit=limit)
        answer = self._call(datasets_pb2_grpc.DatasetServiceStub, "DiffDatasets", request, timeout=60 * self.timeout)
        return from_message(values.DatasetDiff, answer)

    def delete_dataset(self, name: str) -> int:
        """Removes `name@revision`, or with `name` every revision; returns how many."""
        request = fill(datasets_pb2.DeleteDatasetRequest, name=name)
        return int((self._call(datasets_pb2_grpc.DatasetServiceStub, "DeleteDataset", request)).revisions)

    # Training

    def train(
        self,
        dataset: str,
        adapter: str,
        *,
        model: AnyPath = "",
        parent: str = "",
        request_id: str = "",
        **settings: Unpack[TrainKeywords],
    ) -> JobRun[values.Adapter]:
        """Trains an adapter on the resident model, or on `model`, which is loaded where it is not resident.

        `parent` is an adapter to go on from, in its shape: `name` or `name@revision`.
        `settings`: those of LoraSettings and TrainerSettings by name: `max_steps=200, learning_rate=1e-4, r=16`. What is left
        out takes the contract's default. The result is the Adapter. Cancel it with `cancel(run.job_id)`, never by leaving.
        """
        lora, trainer = train_settings(settings)
        request = fill(
            training_pb2.TrainRequest,
            dataset=dataset,
            adapter=adapter,
            model=_place(model),
            parent=parent,
            lora=lora,
            trainer=trainer,
            request_id=request_id or _new_id(),
        )
        return self._run_job(training_pb2_grpc.TrainingServiceStub, "Train", request, values.Adapter, self.adapter)

    def merge(self, adapter: str, name: str, *, dtype: str | None = None, request_id: str = "") -> JobRun[values.Model]:
        """Makes a model of its own of an adapter and its base; `dtype`: `float32`, `bfloat16` or `float16`.

        The result is the Model, with the proof that it answers as the adapter does.
        """
        request = fill(
            training_pb2.MergeRequest,
            adapter=adapter,
            name=name,
            dtype=enum_name(common_pb2.Dtype, dtype),
            request_id=request_id or _new_id(),
        )
        return self._run_job(training_pb2_grpc.TrainingServiceStub, "Merge", request, values.Model, self.model)

    # Jobs

    def jobs(self, limit: int = 100) -> list[values.Job]:
        """Jobs, newest first; at most `limit`."""
        return self._list(jobs_pb2_grpc.JobServiceStub, "ListJobs", jobs_pb2.ListJobsRequest(), "jobs", values.Job, limit)

    def job(self, job_id: str) -> values.Job:
        """One job, as it stands."""
        answer = self._call(jobs_pb2_grpc.JobServiceStub, "GetJob", fill(jobs_pb2.GetJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    def watch(self, job_id: str, after: int = 0) -> JobRun[values.Job]:
        """The job's events after number `after`, past and future; the result is the Job as it ended, also where it failed."""

        def finish(_kind: str, job: Any) -> values.Job:
            return from_message(values.Job, job)

        return JobRun(self._transport, None, finish, job_id=job_id, after=after)

    def cancel(self, job_id: str) -> values.Job:
        """Ends a job at its next micro-step; one that has ended is left as it is."""
        answer = self._call(jobs_pb2_grpc.JobServiceStub, "CancelJob", fill(jobs_pb2.CancelJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    def pause(self, job_id: str) -> values.Job:
        """Holds a job until it is resumed; training writes a checkpoint at its next step first."""
        answer = self._call(jobs_pb2_grpc.JobServiceStub, "PauseJob", fill(jobs_pb2.PauseJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    def resume(self, job_id: str) -> values.Job:
        """Puts a job that is paused or has ended without a result back into the queue; training goes on from its checkpoint."""
        answer = self._call(jobs_pb2_grpc.JobServiceStub, "ResumeJob", fill(jobs_pb2.ResumeJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    # Models

    def load(
        self,
        model: AnyPath = "",
        *,
        device: str | None = None,
        dtype: str | None = None,
        precision: str | None = None,
        keep_alive: float | timedelta | None = None,
    ) -> Loading:
        """Makes a model resident: a name of `models()`, `starter`, a hub id `owner/name`, or a folder (`./folder`, or a Path).

        `device`: `cpu`, `mps` or `cuda`; `dtype`: `float32`, `bfloat16` or `float16`; both are chosen by default. `precision`:
        `exact`, `int8` or `int4`, how generation reads the weights; by default the daemon's setting. `keep_alive`:
        seconds it stays when nobody asks, negative for ever. Iterate the answer for the stages, or call its `result()`.
        """
        request = fill(
            models_pb2.LoadModelRequest,
            model=_place(model),
            device=enum_name(common_pb2.Device, device),
            dtype=enum_name(common_pb2.Dtype, dtype),
            precision=enum_name(common_pb2.Precision, precision),
            keep_alive=duration(keep_alive),
        )
        return Loading(self._stream(models_pb2_grpc.ModelServiceStub, "LoadModel", request, idle=None))

    def unload(self) -> str:
        """Ends the engine, so that its memory goes back to the system; returns the model's name, empty where there was none."""
        answer = self._call(
            models_pb2_grpc.ModelServiceStub, "UnloadModel", models_pb2.UnloadModelRequest(), timeout=6 * self.timeout
        )
        return str(answer.name)

    def models(self, limit: int = 100) -> list[values.Model]:
        """The models of the daemon's home, newest first; at most `limit`."""
        request = models_pb2.ListModelsRequest()
        return self._list(models_pb2_grpc.ModelServiceStub, "ListModels", request, "models", values.Model, limit)

    def model(self, name: str) -> values.Model:
        """One model."""
        answer = self._call(models_pb2_grpc.ModelServiceStub, "GetModel", fill(models_pb2.GetModelRequest, name=name))
        return from_message(values.Model, answer.model)

    def import_model(self, source: AnyPath, name: str, *, revision: str = "", request_id: str = "") -> JobRun[values.Model]:
        """Copies a model folder, a hub model (`owner/name`) or `starter` into the home. The result is the Model."""
        request = fill(
            models_pb2.ImportModelRequest,
            source=_place(source),
            name=name,
            revision=revision,
            request_id=request_id or _new_id(),
        )
        return self._run_job(models_pb2_grpc.ModelServiceStub, "ImportModel", request, values.Model, self.model)

    def delete_model(self, name: str) -> None:
        """Removes a model; not while it is resident."""
        self._call(models_pb2_grpc.ModelServiceStub, "DeleteModel", fill(models_pb2.DeleteModelRequest, name=name))

    # Adapters

    def adapters(self, name: str = "", limit: int = 100) -> list[values.Adapter]:
        """Adapters, newest first, each revision by itself; only those of `name`, where it is given; at most `limit`."""
        request = fill(models_pb2.ListAdaptersRequest, name=name)
        return self._list(models_pb2_grpc.ModelServiceStub, "ListAdapters", request, "adapters", values.Adapter, limit)

    def adapter(self, name: str) -> values.Adapter:
        """`name` (its newest revision) or `name@revision`."""
        answer = self._call(models_pb2_grpc.ModelServiceStub, "GetAdapter", fill(models_pb2.GetAdapterRequest, name=name))
        return from_message(values.Adapter, answer.adapter)

    def import_adapter(
        self, folder: AnyPath, name: str, *, base_model: AnyPath = "", on_sent: Callable[[int, int], None] | None = None
    ) -> values.Adapter:
        """Sends a PEFT LoRA folder as a new revision of `name`; it belongs to `base_model`, or to the loaded model.

        Of what a trainer saved there the adapter's config and weights alone are sent, and nothing before config, name and base
        are checked. Raises NotFound, Damaged, UnsupportedModel, NotFinite, WrongBase.
        """
        files = adapter_files(folder)
        base = _place(base_model)
        self._check_names(name, base)
        upload_id = self._send(files, on_sent)
        request = fill(models_pb2.ImportAdapterRequest, upload_id=upload_id, name=name, base_model=base)
        answer = self._call(models_pb2_grpc.ModelServiceStub, "ImportAdapter", request, timeout=6 * self.timeout)
        return from_message(values.Adapter, answer.adapter)

    def _check_names(self, adapter: str, base_model: str) -> None:
        """Has the daemon refuse names now that it would refuse when everything was sent."""
        self._call(
            models_pb2_grpc.ModelServiceStub, "ListAdapters", fill(models_pb2.ListAdaptersRequest, name=adapter, page_size=1)
        )
        resident = (self.status()).resident
        named = base_model and not base_model.startswith("/")  # a folder is looked at when everything was sent
        if named and (resident is None or resident.name != base_model):
            self.model(base_model)

    def export_adapter(self, name: str, path: AnyPath) -> Path:
        """Copies an adapter's PEFT folder to a folder that does not exist yet; returns that folder."""
        request = fill(models_pb2.ExportAdapterRequest, name=name, path=_absolute(path))
        answer = self._call(models_pb2_grpc.ModelServiceStub, "ExportAdapter", request, timeout=6 * self.timeout)
        return Path(answer.path)

    def delete_adapter(self, name: str) -> int:
        """Removes `name@revision`, or with `name` every revision; returns how many."""
        request = fill(models_pb2.DeleteAdapterRequest, name=name)
        return int((self._call(models_pb2_grpc.ModelServiceStub, "DeleteAdapter", request)).revisions)

    # Generation

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[values.ChatMessage | Mapping[str, str]] | None = None,
        model: AnyPath = "",
        adapter: str = "",
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        json_schema: str | Mapping[str, Any] | None = None,
        json_object: bool = False,
        regex: str | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        parse_special: bool = False,
        keep_alive: float | timedelta | None = None,
        timeout: float | None = None,
        **settings: Unpack[SamplingKeywords],
    ) -> Generation:
        """Continues `prompt`, or answers `messages`: exactly one of them. Iterate the answer, or call its `text()`.

        `adapter` is `name` or `name@revision`; empty is the base alone.
        `settings`: those of Sampling by name: `max_tokens=40, temperature=0.7, stop="."`. What is left out takes the contract's
        default. `max_new_tokens` and `min_new_tokens` are other names of `max_tokens` and `min_tokens`.
        `json_schema`, `json_object` or `regex` gives the answer a form: JSON that is valid by the schema (a mapping or JSON
        text), any JSON object, or a text that the expression matches. Where the outcome's finish_reason is `length`, or a stop
        string was met, the answer may be incomplete.
        `logprobs` collects each token's log-probability in the answer's `logprobs`, with that of the `top_logprobs` likeliest.
        `parse_special` reads the spelling of a control token, as `<|im_end|>`, in the prompt or in messages as that token;
        by default it is text. What the chat template writes is always control tokens.
        `timeout`: seconds the whole answer may take; no limit by default.
        """
        if (prompt is None) == (messages is None):
            raise InvalidRequest("generate() takes exactly one of prompt and messages; give one of them.")
        request = fill(
            generation_pb2.GenerateRequest,
            prompt=prompt or "",
            messages=conversation(messages),
            model=_place(model),
            adapter=adapter,
            sampling=sampling(settings, max_tokens=max_new_tokens, min_tokens=min_new_tokens),
            keep_alive=duration(keep_alive),
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            response_format=response_format(json_schema, json_object, regex),
            parse_special=parse_special,
        )
        stub = generation_pb2_grpc.GenerationServiceStub
        return Generation(self._stream(stub, "Generate", request, idle=None, timeout=timeout))

    def count_tokens(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[values.ChatMessage | Mapping[str, str]] | None = None,
        parse_special: bool = False,
    ) -> values.TokenCount:
        """The tokens of a text or a conversation, as the loaded model sees it; `parse_special` as in `generate`."""
        if (prompt is None) == (messages is None):
            raise InvalidRequest("count_tokens() takes exactly one of prompt and messages; give one of them.")
        request = fill(
            generation_pb2.CountTokensRequest,
            prompt=prompt or "",
            messages=conversation(messages),
            parse_special=parse_special,
        )
        answer = self._call(generation_pb2_grpc.GenerationServiceStub, "CountTokens", request)
        return from_message(values.TokenCount, answer)

    def decode_tokens(self, token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids of the resident model."""
        request = generation_pb2.DecodeTokensRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        answer = self._call(generation_pb2_grpc.GenerationServiceStub, "DecodeTokens", request)
        return str(answer.text)

    # How calls are made

    def _call(self, stub: type, method: str, request: Any, *, timeout: float | None = None) -> Any:
        return self._transport.call(getattr(self._transport.stub(stub), method), request, timeout or self.timeout)

    def _stream(self, stub: type, method: str, request: Any, *, idle: float | None, timeout: float | None = None) -> Stream:
        bound = getattr(self._transport.stub(stub), method)
        return self._transport.stream(bound, request, idle=idle, timeout=timeout)

    def _list(self, stub: type, method: str, request: Any, field: str, kind: type[T], limit: int) -> list[T]:
        found: list[T] = []
        while len(found) < limit:
            request.page_size = min(limit - len(found), _PAGE)
            answer = self._call(stub, method, request)
            found += [from_message(kind, item) for item in getattr(answer, field)]
            request.page_token = answer.next_page_token
            if not answer.next_page_token:
                break
        return found

    def _run_job(self, stub: type, method: str, request: Any, kind: type[T], get: Callable[[str], Any]) -> JobRun[T]:
        """Starts a job; `get` fetches what it made by reference, for a result that comes over a second connection."""

        def finish(what: str, body: Any) -> T:
            if what != "job":
                return from_message(kind, body)
            job = from_message(values.Job, body)
            if job.state is values.JobState.CANCELLED:
                raise Cancelled(f"Job {job.id} was cancelled; go on with: smolora-client jobs resume {job.id}")
            if job.error is not None:
                raise by_reason(job.error.reason)(job.error.message)
            found: T = get(job.result)
            return found

        def begin() -> Stream:
            return self._stream(stub, method, request, idle=JOB_IDLE_S)

        return JobRun(self._transport, begin, finish).start()


def _new_id() -> str:
    """A request id, so that a call that is sent again never starts the work twice."""
    return uuid.uuid4().hex


def _place(source: AnyPath) -> str:
    """A model's name or hub id as it is; a path made absolute, because the daemon has a folder of its own."""
    if isinstance(source, str) and not source.startswith(("/", "./", "../", "~")) and source not in (".", ".."):
        return source
    return _absolute(source)


def _absolute(path: AnyPath) -> str:
    try:
        return str(paths.absolute(path))
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
