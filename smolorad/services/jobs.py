"""JobService: every job, from every client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from smolora.v1 import jobs_pb2 as pb
from smolora.v1 import jobs_pb2_grpc
from smolorad.errors import InvalidRequest
from smolorad.jobs.queue import Queue
from smolorad.services.grpc_errors import Context, map_errors
from smolorad.services.job_stream import JobStreams
from smolorad.services.pagination import page
from smolorad.store.jobs import JobStore


class JobService(jobs_pb2_grpc.JobServiceServicer):
    """See the contract, proto/smolora/v1/jobs.proto."""

    def __init__(self, store: JobStore, queue: Queue, streams: JobStreams) -> None:
        self._store = store
        self._queue = queue
        self._streams = streams

    @map_errors
    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        rows, token = await page(request, self._store.newest, lambda job: job.id, self._streams.job)
        return pb.ListJobsResponse(jobs=rows, next_page_token=token)

    @map_errors
    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=self._streams.job(await self._store.get(request.id)))

    @map_errors
    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:
        if request.after_sequence < 0:
            raise InvalidRequest.field("after_sequence", f"is {request.after_sequence}, but must be at least 0")
        await self._store.get(request.id)
        async with aclosing(self._streams.events(request.id, request.after_sequence)) as events:
            async for event in events:
                yield pb.WatchJobResponse(job_event=event)
        yield pb.WatchJobResponse(job=self._streams.job(await self._store.get(request.id)))

    @map_errors
    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        return pb.CancelJobResponse(job=self._streams.job(await self._queue.cancel(request.id)))

    @map_errors
    async def PauseJob(self, request: pb.PauseJobRequest, context: Context) -> pb.PauseJobResponse:
        return pb.PauseJobResponse(job=self._streams.job(await self._queue.pause(request.id)))

    @map_errors
    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Context) -> pb.ResumeJobResponse:
        return pb.ResumeJobResponse(job=self._streams.job(await self._queue.resume(request.id)))
