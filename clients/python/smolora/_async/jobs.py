"""Calls about jobs.

`smolora._sync.jobs` is generated from this file: change this one, then run scripts/unasync.py.
"""

from __future__ import annotations

from typing import Any

from smolora import _values as values
from smolora._async.calls import Calls
from smolora._async.streams import AsyncJobRun
from smolora._convert import from_message
from smolora._settings import fill
from smolora.v1 import jobs_pb2, jobs_pb2_grpc


class JobCalls(Calls):
    """What a client does with jobs."""

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
        """Pauses a job until it is resumed; training writes a checkpoint at its next step first."""
        answer = await self._call(jobs_pb2_grpc.JobServiceStub, "PauseJob", fill(jobs_pb2.PauseJobRequest, id=job_id))
        return from_message(values.Job, answer.job)

    async def resume(self, job_id: str) -> values.Job:
        """Puts a job that is paused, or ended without a result, back into the queue; training continues from its checkpoint."""
        answer = await self._call(jobs_pb2_grpc.JobServiceStub, "ResumeJob", fill(jobs_pb2.ResumeJobRequest, id=job_id))
        return from_message(values.Job, answer.job)
