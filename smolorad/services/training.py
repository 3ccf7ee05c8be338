"""TrainingService: adapters trained, adapters merged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from smolora.v1 import models_pb2, training_pb2_grpc
from smolora.v1 import training_pb2 as pb
from smolorad.domain import JobKind, MergeSpec, Ref, TrainSpec
from smolorad.errors import InvalidRequest
from smolorad.jobs.merge import Merge
from smolorad.jobs.queue import Queue
from smolorad.jobs.train import Train
from smolorad.link.convert import from_message, to_message
from smolorad.services.grpc_errors import Context, map_errors
from smolorad.services.job_stream import JobStreams
from smolorad.services.messages import model_message
from smolorad.services.validation import check_request_id
from smolorad.store.library import Library


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    """See the contract, proto/smolora/v1/training.proto."""

    def __init__(self, library: Library, queue: Queue, streams: JobStreams, train: Train, merge: Merge) -> None:
        self._library = library
        self._queue = queue
        self._streams = streams
        self._train = train
        self._merge = merge

    @map_errors
    async def Train(self, request: pb.TrainRequest, context: Context) -> AsyncIterator[pb.TrainResponse]:
        request_id = check_request_id(request.request_id)
        if request.trainer.HasField("max_steps") and request.trainer.HasField("num_train_epochs"):
            raise InvalidRequest.field("trainer.num_train_epochs", "is given together with max_steps; give one of the two")
        job = await self._queue.earlier(JobKind.TRAIN, request.adapter, request_id)
        if job is None:
            shape = [field.name for field, _ in request.lora.ListFields()]
            spec = await self._train.plan(from_message(TrainSpec, request), shape)
            job = await self._queue.submit(JobKind.TRAIN, spec.adapter, spec, request_id)
        async with aclosing(self._streams.events(job.id)) as events:
            async for event in events:
                yield pb.TrainResponse(job_event=event)
        job = await self._streams.succeeded(job.id)
        adapter = await self._library.adapter(Ref.parse(job.result))
        yield pb.TrainResponse(adapter=to_message(models_pb2.Adapter, adapter))

    @map_errors
    async def Merge(self, request: pb.MergeRequest, context: Context) -> AsyncIterator[pb.MergeResponse]:
        request_id = check_request_id(request.request_id)
        job = await self._queue.earlier(JobKind.MERGE, request.name, request_id)
        if job is None:
            spec = await self._merge.plan(from_message(MergeSpec, request))
            job = await self._queue.submit(JobKind.MERGE, spec.name, spec, request_id)
        async with aclosing(self._streams.events(job.id)) as events:
            async for event in events:
                yield pb.MergeResponse(job_event=event)
        job = await self._streams.succeeded(job.id)
        yield pb.MergeResponse(model=model_message(await self._library.model(job.result)))
