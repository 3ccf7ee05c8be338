"""The asyncio client. `smolora._sync.client` is generated from this file: change this one, then run scripts/unasync.py."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from smolora import _values as values
from smolora._async.streams import JOB_IDLE_S, AsyncGeneration, AsyncJobRun, AsyncLoading
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
from smolora._transport.aio import AsyncStream, AsyncTransport
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


class AsyncClient:
    """Talks to the daemon on this machine.

    `socket` is its Unix socket; by default the one that SMOLORA_SOCKET or SMOLORA_HOME names, else the platform's. `timeout` is
    how many seconds a call that is not a stream may take. Nothing is sent before the first call. A call that fails raises a
    `SmoloraError`: DaemonNotRunning where nobody listens.

        async with AsyncClient() as client:
            async for piece in client.generate("Once upon a time"):
                print(piece, end="")
    """

    def __init__(self, socket: AnyPath | None = None, *, timeout: float = 10.0) -> None:
        self.timeout = timeout
        self._transport = AsyncTransport(Address.find(socket))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call and the connection. Jobs go on."""
        await self._transport.close()

    # The daemon

    async def status(self) -> values.Status:
        """What runs, and what it uses."""
        answer = await self._call(system_pb2_grpc.SystemServiceStub, "GetStatus", system_pb2.GetStatusRequest())
        return from_message(values.Status, answer)

    async def shutdown(self, grace: float | timedelta | None = None) -> None:
        """Ends the daemon as SIGTERM does: work in progress gets `grace` seconds to reach a checkpoint."""
        request = system_pb2.ShutdownRequest(grace=duration(grace))
        await self._call(system_pb2_grpc.SystemServiceStub, "Shutdown", request)

    # Datasets

    async def upload(self, paths: AnyPath | Iterable[AnyPath], on_sent: Callable[[int, int], None] | None = None) -> str:
        """Sends files, and folders recursively without what begins with a dot; returns the upload's id.

        `on_sent(done, total)` is called with bytes, before each piece, in a thread.
        """
        return await self._send(find_files([paths] if isinstance(paths, (str, os.PathLike)) else paths), on_sent)

    async def _send(self, files: list[LocalFile], on_sent: Callable[[int, int], None] | None) -> str:
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
            answer = await self._transport.send(datasets_pb2_grpc.DatasetServiceStub, "UploadFile", requests, deadline)
            upload_id = answer.upload_id
        return upload_id

    async def prepare(
        self,
        name: str,
        paths: AnyPath | Iterable[AnyPath] = (),
        *,
        upload_id: str = "",
        hub: str | values.HubDataset | None = None,
        request_id: str = "",
        on_sent: Callable[[int, int], None] | None = None,
        **settings: Unpack[PrepareKeywords],
    ) -> AsyncJobRun[values.Dataset]:
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
            if (known := await self._prepared_before(request, given)) is not None:
                return known
            request.upload_id = await self.upload(given, on_sent)
        request.MergeFrom(fill(datasets_pb2.PrepareDatasetRequest, request_id=request_id or _new_id()))
        stub = datasets_pb2_grpc.DatasetServiceStub
        return await self._run_job(stub, "PrepareDataset", request, values.Dataset, self.dataset)

    async def _prepared_before(
        self, request: datasets_pb2.PrepareDatasetRequest, paths: list[AnyPath]
    ) -> AsyncJobRun[values.Dataset] | None:
        """What was made of the same files in the same way, if that is the newest; notes in the request what they are."""
        request.source_fingerprint = fingerprint(find_files(paths))
        try:
            stub = datasets_pb2_grpc.DatasetServiceStub
            return await self._run_job(stub, "PrepareDataset", request, values.Dataset, self.dataset)
        except NotFound:
            return None

    async def datasets(self, limit: int = 100) -> list[values.Dataset]:
        """Datasets, newest first, each with its newest revision; at most `limit`."""
        request = datasets_pb2.ListDatasetsRequest()
        stub = datasets_pb2_grpc.DatasetServiceStub
        return await self._list(stub, "ListDatasets", request, "datasets", values.Dataset, limit)

    async def dataset(self, name: str) -> values.Dataset:
        """`name` (its newest revision) or `name@revision`, with its report."""
        request = fill(datasets_pb2.GetDatasetRequest, name=name)
        answer = await self._call(datasets_pb2_grpc.DatasetServiceStub, "GetDataset", request)
        return from_message(values.Dataset, answer.dataset)

    async def preview(
        self, name: str, *, split: str = "train", offset: int = 0, limit: int = 5, model: AnyPath = ""
    ) -> values.Preview:
        """Some rows, as training will read them with `model`, by default the resident one; `split`: `train`, `validation`."""
        request = fill(
            datasets_pb2.PreviewDatasetRequest, name=name, split=split, offset=offset, limit=limit, model=_place(model)
        )
        answer = await self._call(datasets_pb2_grpc.DatasetServiceStub, "PreviewDataset", request)
        return from_message(values.Preview, answer)

    async def diff_datasets(self, before: str, after: str, *, limit: int = 20) -> values.DatasetDiff:
        """Which rows `after` has and `before` has not, and the reverse; at most `limit` of each are told."""
        request = fill(datasets_pb2.DiffDatasetsRequest, before=before, after=after, limit=limit)
        answer = await self._call(datasets_pb2_grpc.DatasetServiceStub, "DiffDatasets", request, timeout=60 * self.timeout)
        return from_message(values.DatasetDiff, answer)

    async def delete_dataset(self, name: str) -> int:
        """Removes `name@revision`, or with `name` every revision; returns how many."""
        request = fill(datasets_pb2.DeleteDatasetRequest, name=name)
        return int((await self._call(datasets_pb2_grpc.DatasetServiceStub, "DeleteDataset", request)).revisions)

    # Training

    async def train(
        self,
        dataset: str,
        adapter: str,
        *,
        model: AnyPath = "",
        parent: str = "",
        request_id: str = "",
        **settings: Unpack[TrainKeywords],
    ) -> AsyncJobRun[values.Adapter]:
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
        return await self._run_job(training_pb2_grpc.TrainingServiceStub, "Train", request, values.Adapter, self.adapter)

    async def merge(
        self, adapter: str, name: str, *, dtype: str | None = None, request_id: str = ""
    ) -> AsyncJobRun[values.Model]:
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
        return await self._run_job(training_pb2_grpc.TrainingServiceStub, "Merge", request, values.Model, self.model)

    # Jobs

    async def jobs(self, limit: int = 100) -> list[values.Job]:
        """Jobs, newest first; at most `limit`."""
        return await self._list(jobs_pb2_grpc.JobServiceStub, "ListJobs", jobs_pb2.ListJobsRequest(), "jobs", values.Job, limit)

    async def job(self, job_id: str) -> values.Job:
        """One job, as it stands."""
        answer = await self._call(jobs_pb2_grpc.JobServiceStub, "GetJob", fill(jobs_pb2.GetJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    def watch(self, job_id: str, after: int = 0) -> AsyncJobRun[values.Job]:
        """The job's events after number `after`, past and future; the result is the Job as it ended, also where it failed."""

        async def finish(_kind: str, job: Any) -> values.Job:
            return from_message(values.Job, job)

        return AsyncJobRun(self._transport, None, finish, job_id=job_id, after=after)

    async def cancel(self, job_id: str) -> values.Job:
        """Ends a job at its next micro-step; one that has ended is left as it is."""
        answer = await self._call(jobs_pb2_grpc.JobServiceStub, "CancelJob", fill(jobs_pb2.CancelJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    async def pause(self, job_id: str) -> values.Job:
        """Holds a job until it is resumed; training writes a checkpoint at its next step first."""
        answer = await self._call(jobs_pb2_grpc.JobServiceStub, "PauseJob", fill(jobs_pb2.PauseJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    async def resume(self, job_id: str) -> values.Job:
        """Puts a job that is paused or has ended without a result back into the queue; training goes on from its checkpoint."""
        answer = await self._call(jobs_pb2_grpc.JobServiceStub, "ResumeJob", fill(jobs_pb2.ResumeJobRequest, id=job_id))
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
    ) -> AsyncLoading:
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
        return AsyncLoading(self._stream(models_pb2_grpc.ModelServiceStub, "LoadModel", request, idle=None))

    async def unload(self) -> str:
        """Ends the engine, so that its memory goes back to the system; returns the model's name, empty where there was none."""
        answer = await self._call(
            models_pb2_grpc.ModelServiceStub, "UnloadModel", models_pb2.UnloadModelRequest(), timeout=6 * self.timeout
        )
        return str(answer.name)

    async def models(self, limit: int = 100) -> list[values.Model]:
        """The models of the daemon's home, newest first; at most `limit`."""
        request = models_pb2.ListModelsRequest()
        return await self._list(models_pb2_grpc.ModelServiceStub, "ListModels", request, "models", values.Model, limit)

    async def model(self, name: str) -> values.Model:
        """One model."""
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "GetModel", fill(models_pb2.GetModelRequest, name=name))
        return from_message(values.Model, answer.model)

    async def import_model(
        self, source: AnyPath, name: str, *, revision: str = "", request_id: str = ""
    ) -> AsyncJobRun[values.Model]:
        """Copies a model folder, a hub model (`owner/name`) or `starter` into the home. The result is the Model."""
        request = fill(
            models_pb2.ImportModelRequest,
            source=_place(source),
            name=name,
            revision=revision,
            request_id=request_id or _new_id(),
        )
        return await self._run_job(models_pb2_grpc.ModelServiceStub, "ImportModel", request, values.Model, self.model)

    async def delete_model(self, name: str) -> None:
        """Removes a model; not while it is resident."""
        await self._call(models_pb2_grpc.ModelServiceStub, "DeleteModel", fill(models_pb2.DeleteModelRequest, name=name))

    # Adapters

    async def adapters(self, name: str = "", limit: int = 100) -> list[values.Adapter]:
        """Adapters, newest first, each revision by itself; only those of `name`, where it is given; at most `limit`."""
        request = fill(models_pb2.ListAdaptersRequest, name=name)
        return await self._list(models_pb2_grpc.ModelServiceStub, "ListAdapters", request, "adapters", values.Adapter, limit)

    async def adapter(self, name: str) -> values.Adapter:
        """`name` (its newest revision) or `name@revision`."""
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "GetAdapter", fill(models_pb2.GetAdapterRequest, name=name))
        return from_message(values.Adapter, answer.adapter)

    async def import_adapter(
        self, folder: AnyPath, name: str, *, base_model: AnyPath = "", on_sent: Callable[[int, int], None] | None = None
    ) -> values.Adapter:
        """Sends a PEFT LoRA folder as a new revision of `name`; it belongs to `base_model`, or to the loaded model.

        Of what a trainer saved there the adapter's config and weights alone are sent, and nothing before config, name and base
        are checked. Raises NotFound, Damaged, UnsupportedModel, NotFinite, WrongBase.
        """
        files = adapter_files(folder)
        base = _place(base_model)
        await self._check_names(name, base)
        upload_id = await self._send(files, on_sent)
        request = fill(models_pb2.ImportAdapterRequest, upload_id=upload_id, name=name, base_model=base)
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "ImportAdapter", request, timeout=6 * self.timeout)
        return from_message(values.Adapter, answer.adapter)

    async def _check_names(self, adapter: str, base_model: str) -> None:
        """Has the daemon refuse names now that it would refuse when everything was sent."""
        await self._call(
            models_pb2_grpc.ModelServiceStub, "ListAdapters", fill(models_pb2.ListAdaptersRequest, name=adapter, page_size=1)
        )
        resident = (await self.status()).resident
        named = base_model and not base_model.startswith("/")  # a folder is looked at when everything was sent
        if named and (resident is None or resident.name != base_model):
            await self.model(base_model)

    async def export_adapter(self, name: str, path: AnyPath) -> Path:
        """Copies an adapter's PEFT folder to a folder that does not exist yet; returns that folder."""
        request = fill(models_pb2.ExportAdapterRequest, name=name, path=_absolute(path))
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "ExportAdapter", request, timeout=6 * self.timeout)
        return Path(answer.path)

    async def delete_adapter(self, name: str) -> int:
        """Removes `name@revision`, or with `name` every revision; returns how many."""
        request = fill(models_pb2.DeleteAdapterRequest, name=name)
        return int((await self._call(models_pb2_grpc.ModelServiceStub, "DeleteAdapter", request)).revisions)

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
    ) -> AsyncGeneration:
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
        return AsyncGeneration(self._stream(stub, "Generate", request, idle=None, timeout=timeout))

    async def count_tokens(
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
        answer = await self._call(generation_pb2_grpc.GenerationServiceStub, "CountTokens", request)
        return from_message(values.TokenCount, answer)

    async def decode_tokens(self, token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids of the resident model."""
        request = generation_pb2.DecodeTokensRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        answer = await self._call(generation_pb2_grpc.GenerationServiceStub, "DecodeTokens", request)
        return str(answer.text)

    # How calls are made

    async def _call(self, stub: type, method: str, request: Any, *, timeout: float | None = None) -> Any:
        return await self._transport.call(getattr(self._transport.stub(stub), method), request, timeout or self.timeout)

    def _stream(
        self, stub: type, method: str, request: Any, *, idle: float | None, timeout: float | None = None
    ) -> AsyncStream:
        bound = getattr(self._transport.stub(stub), method)
        return self._transport.stream(bound, request, idle=idle, timeout=timeout)

    async def _list(self, stub: type, method: str, request: Any, field: str, kind: type[T], limit: int) -> list[T]:
        found: list[T] = []
        while len(found) < limit:
            request.page_size = min(limit - len(found), _PAGE)
            answer = await self._call(stub, method, request)
            found += [from_message(kind, item) for item in getattr(answer, field)]
            request.page_token = answer.next_page_token
            if not answer.next_page_token:
                break
        return found

    async def _run_job(self, stub: type, method: str, request: Any, kind: type[T], get: Callable[[str], Any]) -> AsyncJobRun[T]:
        """Starts a job; `get` fetches what it made by reference, for a result that comes over a second connection."""

        async def finish(what: str, body: Any) -> T:
            if what != "job":
                return from_message(kind, body)
            job = from_message(values.Job, body)
            if job.state is values.JobState.CANCELLED:
                raise Cancelled(f"Job {job.id} was cancelled; go on with: smolora-client jobs resume {job.id}")
            if job.error is not None:
                raise by_reason(job.error.reason)(job.error.message)
            found: T = await get(job.result)
            return found

        def begin() -> AsyncStream:
            return self._stream(stub, method, request, idle=JOB_IDLE_S)

        return await AsyncJobRun(self._transport, begin, finish).start()


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
