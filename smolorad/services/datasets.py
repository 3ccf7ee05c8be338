"""DatasetService: the user's files, and the datasets made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from smolora.v1 import datasets_pb2 as pb
from smolora.v1 import datasets_pb2_grpc
from smolorad.children.worker import Workers
from smolorad.domain import Dataset, JobKind, PrepareSpec, Ref
from smolorad.errors import InvalidRequest
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.prepare import Prepare
from smolorad.jobs.queue import Queue
from smolorad.link.convert import from_message, to_message
from smolorad.services.grpc_errors import Context, map_errors
from smolorad.services.job_stream import JobStreams
from smolorad.services.pagination import page
from smolorad.services.uploads import Uploads
from smolorad.services.validation import check_request_id
from smolorad.store.library import Library

_SPLITS = ("train", "validation")
_PREVIEW_ROWS, _DIFF_ROWS, _PREVIEW_LIMIT = 5, 20, 100


class DatasetService(datasets_pb2_grpc.DatasetServiceServicer):
    """See the contract, proto/smolora/v1/datasets.proto."""

    def __init__(
        self,
        uploads: Uploads,
        library: Library,
        artifacts: Artifacts,
        workers: Workers,
        queue: Queue,
        streams: JobStreams,
        prepare: Prepare,
    ) -> None:
        self._uploads = uploads
        self._library = library
        self._artifacts = artifacts
        self._workers = workers
        self._queue = queue
        self._streams = streams
        self._prepare = prepare

    @map_errors
    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        return await self._uploads.receive(request_iterator)

    @map_errors
    async def PrepareDataset(
        self, request: pb.PrepareDatasetRequest, context: Context
    ) -> AsyncIterator[pb.PrepareDatasetResponse]:
        spec = from_message(PrepareSpec, request)
        if spec.asks_for_known:
            job_id = (await self._prepare.known(spec)).job_id
        else:
            request_id = check_request_id(request.request_id)
            job = await self._queue.earlier(JobKind.PREPARE, request.name, request_id)
            if job is None:
                spec = await self._prepare.plan(spec)
                job = await self._queue.submit(JobKind.PREPARE, spec.name, spec, request_id)
            job_id = job.id
        async with aclosing(self._streams.events(job_id)) as events:
            async for event in events:
                yield pb.PrepareDatasetResponse(job_event=event)
        job = await self._streams.succeeded(job_id)
        yield pb.PrepareDatasetResponse(dataset=_message(await self._library.dataset(Ref.parse(job.result))))

    @map_errors
    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        rows, token = await page(request, self._library.datasets, lambda d: str(d.ref), _message)
        return pb.ListDatasetsResponse(datasets=rows, next_page_token=token)

    @map_errors
    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=_message(await self._library.dataset(Ref.parse(request.name))))

    @map_errors
    async def PreviewDataset(self, request: pb.PreviewDatasetRequest, context: Context) -> pb.PreviewDatasetResponse:
        split, limit = request.split or "train", request.limit or _PREVIEW_ROWS
        if split not in _SPLITS:
            raise InvalidRequest.field("split", f"is {split!r}, but must be one of {', '.join(_SPLITS)}")
        if request.offset < 0:
            raise InvalidRequest.field("offset", f"is {request.offset}, but must be at least 0")
        if not 1 <= limit <= _PREVIEW_LIMIT:
            raise InvalidRequest.field("limit", f"is {limit}, but must be at least 1 and at most {_PREVIEW_LIMIT}")
        dataset = await self._library.dataset(Ref.parse(request.name))
        tokenizer = await self._prepare.tokenizer(request.model)
        shown = await self._workers.preview(dataset, split, request.offset, limit, tokenizer.path if tokenizer else None)
        return to_message(pb.PreviewDatasetResponse, shown)

    @map_errors
    async def DiffDatasets(self, request: pb.DiffDatasetsRequest, context: Context) -> pb.DiffDatasetsResponse:
        limit = request.limit or _DIFF_ROWS
        if not 1 <= limit <= _PREVIEW_LIMIT:
            raise InvalidRequest.field("limit", f"is {limit}, but must be at least 1 and at most {_PREVIEW_LIMIT}")
        before = await self._library.dataset(Ref.parse(request.before, "before"))
        after = await self._library.dataset(Ref.parse(request.after, "after"))
        return to_message(pb.DiffDatasetsResponse, await self._workers.diff(before, after, limit))

    @map_errors
    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        return pb.DeleteDatasetResponse(revisions=await self._artifacts.remove_dataset(Ref.parse(request.name)))


def _message(dataset: Dataset) -> pb.Dataset:
    return to_message(pb.Dataset, dataset)
