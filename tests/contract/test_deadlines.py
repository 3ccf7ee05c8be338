"""Calls whose client goes away at any moment: folders and rows stay one, and the next call on the same name works."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from smolora.v1 import datasets_pb2, jobs_pb2, models_pb2, training_pb2
from tests.contract.house import House, everything, loaded, prepared, trained, upload
from tests.contract.library import assert_whole
from tests.contract.test_models import peft_files

ENDED = (jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED)
Call = Awaitable[Any] | AsyncIterator[Any]


class Caller:
    """Makes the calls of every handler that changes something, each with a deadline."""

    def __init__(self, house: House, rng: random.Random, out: Path) -> None:
        self.house = house
        self.rng = rng
        self.out = out
        self.exported = 0

    def deadline_s(self) -> float:
        """2 to 60 ms."""
        return self.rng.uniform(0.002, 0.06)

    async def upload_file(self) -> Call:
        """A new file of several parts."""

        async def parts() -> AsyncIterator[datasets_pb2.UploadFileRequest]:
            yield datasets_pb2.UploadFileRequest(header=datasets_pb2.UploadHeader(path="sub/a.txt", size_bytes=3 * 2**18))
            for _ in range(3):
                yield datasets_pb2.UploadFileRequest(data=bytes(2**18))

        return self.house.datasets.UploadFile(parts(), timeout=self.deadline_s())

    async def import_adapter(self) -> Call:
        """An adapter's next revision."""
        request = models_pb2.ImportAdapterRequest(upload_id=await upload(self.house, *peft_files()), name="brought")
        return self.house.models.ImportAdapter(request, timeout=self.deadline_s())

    async def delete_adapter(self) -> Call:
        """One revision, or all."""
        request = models_pb2.ImportAdapterRequest(upload_id=await upload(self.house, *peft_files()), name="brought")
        revision = (await self.house.models.ImportAdapter(request)).adapter.revision
        name = self.rng.choice(("brought", f"brought@{revision}"))
        return self.house.models.DeleteAdapter(models_pb2.DeleteAdapterRequest(name=name), timeout=self.deadline_s())

    async def prepare(self) -> Call:
        """A dataset's next revision."""
        upload_id = await upload(self.house, ("a.txt", b"one\ntwo\n"))
        request = datasets_pb2.PrepareDatasetRequest(name="spare", upload_id=upload_id)
        return self.house.datasets.PrepareDataset(request, timeout=self.deadline_s())

    async def delete_dataset(self) -> Call:
        """One revision, or all."""
        revision = (await prepared(self.house, "spare")).revision
        name = self.rng.choice(("spare", f"spare@{revision}"))
        return self.house.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name=name), timeout=self.deadline_s())

    async def train(self) -> Call:
        """An adapter's next revision."""
        request = training_pb2.TrainRequest(dataset="verses", adapter="support", model="starter")
        return self.house.training.Train(request, timeout=self.deadline_s())

    async def merge(self) -> Call:
        """A model."""
        request = training_pb2.MergeRequest(adapter="kept", name=f"merged{self.rng.randrange(10**9)}")
        return self.house.training.Merge(request, timeout=self.deadline_s())

    async def import_model(self) -> Call:
        """A model."""
        request = models_pb2.ImportModelRequest(source="starter", name=f"mine{self.rng.randrange(10**9)}")
        return self.house.models.ImportModel(request, timeout=self.deadline_s())

    async def delete_model(self) -> Call:
        """A model that was just imported."""
        request = models_pb2.ImportModelRequest(source="starter", name=f"mine{self.rng.randrange(10**9)}")
        name = (await everything(self.house.models.ImportModel(request)))[-1].model.name
        return self.house.models.DeleteModel(models_pb2.DeleteModelRequest(name=name), timeout=self.deadline_s())

    async def export_adapter(self) -> Call:
        """A folder of the user's."""
        self.exported += 1
        request = models_pb2.ExportAdapterRequest(name="kept", path=str(self.out / str(self.exported)))
        return self.house.models.ExportAdapter(request, timeout=self.deadline_s())

    async def cancel_job(self) -> Call:
        """The newest job."""
        return self.house.jobs.CancelJob(jobs_pb2.CancelJobRequest(id=await self._newest()), timeout=self.deadline_s())

    async def pause_job(self) -> Call:
        """The newest job."""
        return self.house.jobs.PauseJob(jobs_pb2.PauseJobRequest(id=await self._newest()), timeout=self.deadline_s())

    async def resume_job(self) -> Call:
        """The newest job."""
        return self.house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=await self._newest()), timeout=self.deadline_s())

    async def load(self) -> Call:
        """The starter."""
        return self.house.models.LoadModel(models_pb2.LoadModelRequest(model="starter"), timeout=self.deadline_s())

    async def unload(self) -> Call:
        """Whatever is loaded."""
        return self.house.models.UnloadModel(models_pb2.UnloadModelRequest(), timeout=self.deadline_s())

    async def _newest(self) -> str:
        return (await self.house.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1))).jobs[0].id


CHANGES: tuple[Callable[[Caller], Awaitable[Call]], ...] = (
    *(Caller.upload_file, Caller.import_adapter, Caller.delete_adapter, Caller.prepare, Caller.delete_dataset),
    *(Caller.train, Caller.merge, Caller.import_model, Caller.delete_model, Caller.export_adapter),
    *(Caller.cancel_job, Caller.pause_job, Caller.resume_job, Caller.load, Caller.unload),
)


async def left(call: Call) -> None:
    """The call, to its end or to its deadline."""
    # Where a client's stream reaches its deadline, gRPC raises one or the other.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call


async def all_ended(house: House) -> list[jobs_pb2.Job]:
    """Every job, once all have ended; those that are held are resumed."""
    for job in (await house.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1000))).jobs:
        if job.state == jobs_pb2.JOB_STATE_PAUSED:
            await house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=job.id))
        if job.state not in ENDED:
            await everything(house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=job.id)))
    return list((await house.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1000))).jobs)


async def filled(house: House) -> None:
    """A dataset and an adapter that nothing below takes away."""
    await prepared(house)
    await loaded(house)
    await trained(house, "kept", model="starter")


@pytest.mark.parametrize("times", [12, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
async def test_a_client_that_goes_away_leaves_folders_and_rows_that_agree(house: House, short_path: Path, times: int) -> None:
    out = short_path / "out"
    out.mkdir()
    await filled(house)
    caller = Caller(house, random.Random(times), out)
    for _ in range(times):
        for change in caller.rng.sample(CHANGES, len(CHANGES)):
            await left(await change(caller))
    jobs = await all_ended(house)
    assert [job.error.message for job in jobs if job.state == jobs_pb2.JOB_STATE_FAILED] == []
    home = house.settings.places
    assert await house.stop() == 0
    await assert_whole(home)
    for folder in out.iterdir():
        assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}

    await house.start()
    await loaded(house)
    await prepared(house, "spare")
    await trained(house, model="starter")
    await house.models.ImportAdapter(
        models_pb2.ImportAdapterRequest(upload_id=await upload(house, *peft_files()), name="brought")
    )
    assert await house.stop() == 0
    await assert_whole(home)
    await house.start()
