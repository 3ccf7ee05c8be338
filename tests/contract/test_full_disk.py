"""A full disk below the whole daemon: answers are true, and all work resumes when there is room, without a restart."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from smolora.v1 import datasets_pb2, jobs_pb2, models_pb2, training_pb2
from smolorad import publish
from smolorad.app import Backends
from smolorad.jobs.run import FULL
from smolorad.store.database import Database
from smolorad.store.library import Library
from tests.contract.house import House, everything, loaded, prepared, refused, settings_of, trained, until, upload
from tests.contract.library import assert_whole
from tests.contract.test_models import peft_files
from tests.full_disk import SAID, FullDisk

NO_SPACE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SPACE")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    """The disk below the daemon's database, with room."""
    return FullDisk().patch(monkeypatch)


@pytest.fixture
async def house(short_path: Path, backends: Backends, disk: FullDisk) -> AsyncIterator[House]:
    """A daemon on that disk with a dataset, an adapter and a model; afterwards folders and rows agree."""
    house = await House(settings_of(short_path), backends).start()
    await prepared(house)
    await loaded(house)
    await trained(house)
    await everything(house.training.Merge(training_pb2.MergeRequest(adapter="support", name="merged")))
    yield house
    disk.full = False
    assert await house.stop() == 0
    await assert_whole(house.settings.places)


async def test_an_import_that_cannot_be_recorded_changes_nothing_and_works_once_there_is_room(
    house: House, disk: FullDisk
) -> None:
    request = models_pb2.ImportAdapterRequest(upload_id=await upload(house, *peft_files()), name="support")
    disk.full = True
    for _ in range(2):
        answer = await refused(house.models.ImportAdapter(request))
        assert (answer.code, answer.reason) == NO_SPACE
        assert "nothing was changed" in answer.message
    assert sorted(path.name for path in (house.settings.places.adapters / "support").iterdir()) == ["1"]
    disk.full = False
    assert (await house.models.ImportAdapter(request)).adapter.revision == 2


@pytest.mark.parametrize("at", ["publish", "record"])
@pytest.mark.parametrize("what", ["dataset", "adapter", "model"])
async def test_a_finished_job_is_published_once_there_is_room(
    house: House, disk: FullDisk, monkeypatch: pytest.MonkeyPatch, what: str, at: str
) -> None:
    full_once = [1]
    if at == "record":
        record = getattr(Library, f"add_{what}")

        async def add(library: Library, item: object) -> None:
            disk.full = bool(full_once)
            await record(library, item)

        monkeypatch.setattr(Library, f"add_{what}", add)
    else:
        flush = publish.flush_tree

        def flush_tree(folder: Path) -> None:
            if full_once:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(folder)

        monkeypatch.setattr(publish, "flush_tree", flush_tree)
    call = {
        "dataset": lambda upload_id: house.datasets.PrepareDataset(
            datasets_pb2.PrepareDatasetRequest(name="verses", upload_id=upload_id)
        ),
        "adapter": lambda _: house.training.Train(training_pb2.TrainRequest(dataset="verses", adapter="support")),
        "model": lambda _: house.training.Merge(training_pb2.MergeRequest(adapter="support", name="second")),
    }[what](await upload(house, ("a.txt", b"one\n")))
    note = await until(call, lambda message: message.job_event.HasField("note"))
    assert note.job_event.note.text == SAID
    (job,) = (await house.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1))).jobs
    assert (job.waiting_for, job.state) == (FULL, jobs_pb2.JOB_STATE_RUNNING)
    assert job.last_sequence == note.job_event.sequence
    full_once.clear()
    disk.full = False
    await everything(call)
    done = (await house.jobs.GetJob(jobs_pb2.GetJobRequest(id=job.id))).job
    assert (done.state, done.attempts, done.waiting_for) == (jobs_pb2.JOB_STATE_SUCCEEDED, 1, "")


async def test_a_watcher_learns_it_while_it_lasts_and_so_does_one_who_comes_late(house: House, disk: FullDisk) -> None:
    call = house.training.Train(training_pb2.TrainRequest(dataset="verses", adapter="support"))
    await until(call, lambda message: message.job_event.HasField("state"))
    disk.full = True
    first = await until(call, lambda message: message.job_event.HasField("note"))
    watch = house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=first.job_event.job_id))
    late = await until(watch, lambda message: message.job_event.HasField("note"))
    assert late.job_event.note.text == first.job_event.note.text == SAID
    disk.full = False
    assert (await everything(watch))[-1].job.result == "support@2"
    events = await everything(house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=first.job_event.job_id)))
    assert [message.job_event.sequence for message in events[:-1]] == list(range(1, len(events)))


@pytest.mark.parametrize("writes_left", [0, 1])
async def test_what_is_removed_makes_the_room_that_its_row_needs(
    house: House, disk: FullDisk, monkeypatch: pytest.MonkeyPatch, writes_left: int
) -> None:
    emptied, empty = [], publish.empty

    def make_room(folder: Path) -> None:
        empty(folder)
        emptied.append(folder)
        disk.writes_left = writes_left

    monkeypatch.setattr(publish, "empty", make_room)
    disk.full = True
    calls = (
        house.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="verses")),
        house.models.DeleteAdapter(models_pb2.DeleteAdapterRequest(name="support@1")),
        house.models.DeleteModel(models_pb2.DeleteModelRequest(name="merged")),
    )
    for call in calls:
        if writes_left:
            await call
        else:
            answer = await refused(call)
            assert (answer.code, answer.reason) == NO_SPACE
            assert "the files are removed" in answer.message.lower()
    assert len(emptied) == 3
    disk.full = False
    if not writes_left:  # the next start removes the rows whose files are gone
        assert await house.stop() == 0
        await house.start()
    assert not (await house.models.ListAdapters(models_pb2.ListAdaptersRequest())).adapters
    assert not (await house.models.ListModels(models_pb2.ListModelsRequest())).models


MESSAGES = pytest.mark.parametrize("message", ["database or disk is full", "disk I/O error", "database is locked"])


@MESSAGES
async def test_a_load_is_answered_though_it_cannot_be_written_down(house: House, disk: FullDisk, message: str) -> None:
    disk.full, disk.message = True, message
    await house.models.UnloadModel(models_pb2.UnloadModelRequest())
    assert (await loaded(house)).name == "starter"
    assert disk.refused


@MESSAGES
async def test_a_daemon_starts_on_a_full_disk(house: House, disk: FullDisk, message: str) -> None:
    home = house.settings.places
    assert await house.stop() == 0
    async with Database.open(home.database) as database:
        await Library(database).forget("adapter", "support", 1)  # as if it had not been recorded
    disk.full, disk.message = True, message
    await house.start()
    assert not (await house.models.ListAdapters(models_pb2.ListAdaptersRequest())).adapters
    disk.full = False
    assert (await trained(house)).revision == 2
    assert await house.stop() == 0
    await house.start()
    listed = (await house.models.ListAdapters(models_pb2.ListAdaptersRequest())).adapters
    assert {adapter.revision for adapter in listed} == {1, 2}
