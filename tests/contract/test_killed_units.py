"""Publishing and removing, cut at each step: by kill -9, or by a client that goes away. It is old or new, never half."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from smolora.v1 import datasets_pb2, models_pb2, training_pb2
from smolorad import publish
from smolorad.app import Backends
from smolorad.jobs.units import Units
from smolorad.paths import Home
from smolorad.services import uploads
from smolorad.store.database import Database
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library
from smolorad.store.recover import adopt
from tests.contract.house import House, everything, happened, loaded, prepared, settings_of, trained, upload
from tests.contract.library import assert_whole, listed_folders
from tests.contract.test_models import peft_files

# One thing is made and two revisions, or a model, are removed; the process dies at the step of the number.
KILLED = """
import asyncio, os, signal, sys
from datetime import UTC, datetime
from pathlib import Path

from smolorad import publish
from smolorad.domain import Adapter, Dtype, LoraSettings, Model, Origin, Ref
from smolorad.jobs.folder_and_row import put, remove
from smolorad.jobs.units import Units
from smolorad.paths import Home
from smolorad.store.database import Database
from smolorad.store.library import Library

home, what, left = Home(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])


def deadly(holder, name):
    real = getattr(holder, name)

    def step(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*args, **kwargs)

    setattr(holder, name, step)


def adapter(revision):
    path = str(home.adapter(Ref("a", revision)))
    return Adapter("a", revision, datetime.now(UTC), Origin.FOLDER, "starter", "", "", "", LoraSettings(), None, 0, 0.0,
                   None, None, 1, 1, path)


def stage(name):
    folder = home.jobs / name
    folder.mkdir(parents=True)
    (folder / "data").write_text("x")
    return folder


async def main():
    async with Database.open(home.database) as database:
        library = Library(database)
        for revision in (1, 2):
            await put(stage(f"s{revision}"), adapter(revision), library.add_adapter)
        model = Model("m", datetime.now(UTC), Origin.FOLDER, "", "", "llama", 1, 1, str(home.model("m")))
        await put(stage("m"), model, library.add_model)
        for holder, name in ((os, "rename"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (Database, "_transact")):
            deadly(holder, name)
        if what == "put":
            await put(stage("s3"), adapter(3), library.add_adapter)
        elif what == "remove":
            await remove([adapter(1).path, adapter(2).path], lambda: library.remove_adapter(Ref("a")))
        else:
            await remove([model.path], lambda: library.remove_model("m"))

home.create()
asyncio.run(main())
"""


def killed_at(home: Path, what: str, step: int) -> bool:
    """Whether a process that does this was killed at a step; else it ended."""
    done = subprocess.run([sys.executable, "-c", KILLED, home, what, str(step)], check=False, timeout=60)
    assert done.returncode in (-9, 0)
    return done.returncode == -9


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("what", ["put", "remove", "remove model"])
async def test_killed_at_any_step_it_is_old_or_new_after_the_next_start(short_path: Path, what: str, every: int) -> None:
    found, step = [], 0
    while True:
        home = Home(short_path / str(step))
        killed = killed_at(home.root, what, step)
        async with Database.open(home.database) as database:
            await adopt(home, Library(database))
        await assert_whole(home)
        assert not list(home.root.glob("*/**/.*")), "nothing out of sight is left"
        found.append(sorted(str(folder.relative_to(home.root)) for folder in await listed_folders(home)))
        if not killed:
            break
        step += every
    old = ["adapters/a/1", "adapters/a/2", "models/m"]
    new = {"put": [*old[:2], "adapters/a/3", old[2]], "remove": old[2:], "remove model": old[:2]}[what]
    assert step > 4
    assert found == sorted(found, key=[old, new].index), "first old, then new, and nothing else"


class Gate:
    """Holds a function of the daemon's at its beginning, until the test lets it continue."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self._real = real

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Says that it was reached, and waits."""
        self.reached.set()
        assert self.go.wait(20)
        return self._real(*args, **kwargs)


def parts() -> Any:
    async def send() -> Any:
        yield datasets_pb2.UploadFileRequest(header=datasets_pb2.UploadHeader(path="a.txt", size_bytes=3))
        yield datasets_pb2.UploadFileRequest(data=b"abc")

    return send()


@pytest.mark.parametrize(
    ("where", "name", "method"),
    [
        (publish, "flush_tree", "ImportAdapter"),
        (publish, "hide", "DeleteAdapter"),
        (publish, "hide", "DeleteDataset"),
        (publish, "hide", "DeleteModel"),
        (uploads, "_rename", "UploadFile"),
    ],
)
async def test_a_client_that_goes_away_within_a_unit_does_not_end_it(
    short_path: Path, backends: Backends, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, method: str
) -> None:
    house = await House(settings_of(short_path), backends).start()
    await prepared(house)
    await loaded(house)
    await trained(house)
    await everything(house.training.Merge(training_pb2.MergeRequest(adapter="support", name="merged")))
    upload_id = await upload(house, *peft_files())
    monkeypatch.setattr(where, name, gate := Gate(getattr(where, name)))
    calls: dict[str, Callable[[], grpc.aio.Call]] = {
        "ImportAdapter": lambda: house.models.ImportAdapter(
            models_pb2.ImportAdapterRequest(upload_id=upload_id, name="brought")
        ),
        "DeleteAdapter": lambda: house.models.DeleteAdapter(models_pb2.DeleteAdapterRequest(name="support")),
        "DeleteDataset": lambda: house.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="verses")),
        "DeleteModel": lambda: house.models.DeleteModel(models_pb2.DeleteModelRequest(name="merged")),
        "UploadFile": lambda: house.datasets.UploadFile(parts()),
    }
    left, run = [], Units.run

    async def watched(units: Units, work: Any) -> Any:
        try:
            return await run(units, work)
        except asyncio.CancelledError:
            left.append(work)
            raise

    monkeypatch.setattr(Units, "run", watched)
    call = calls[method]()
    await happened(gate.reached.is_set)
    call.cancel()
    await happened(lambda: bool(left))  # the daemon knows that its client has gone
    gate.go.set()
    home = house.settings.places
    assert await house.stop() == 0
    await assert_whole(home)
    listed = {str(folder.relative_to(home.root)) for folder in await listed_folders(home)}
    before = {"datasets/verses/1", "adapters/support/1", "models/merged"}
    change = {"ImportAdapter": "adapters/brought/1", "DeleteAdapter": "adapters/support/1"}
    change |= {"DeleteDataset": "datasets/verses/1", "DeleteModel": "models/merged"}
    assert listed == before ^ {*filter(None, [change.get(method)])}
    assert [path.name for path in home.uploads.iterdir()] == ([] if method == "ImportAdapter" else [upload_id])


async def test_a_job_whose_client_goes_away_as_it_is_written_down_runs(
    short_path: Path, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await House(settings_of(short_path), backends).start()
    await prepared(house)
    create, created, go = JobStore.create, asyncio.Event(), asyncio.Event()

    async def slow(store: JobStore, *args: Any) -> Any:
        job = await create(store, *args)
        created.set()
        await go.wait()
        return job

    monkeypatch.setattr(JobStore, "create", slow)
    call = house.training.Train(training_pb2.TrainRequest(dataset="verses", adapter="support", model="starter"))
    await created.wait()
    call.cancel()
    go.set()
    jobs = house.settings.places.jobs
    await happened(lambda: (house.settings.places.adapters / "support" / "1").exists() and not list(jobs.iterdir()))
    assert await house.stop() == 0
    await assert_whole(house.settings.places)
