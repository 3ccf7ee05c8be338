"""What is in use is not removed: not by a caller that waited, nor while its folder is being hidden."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smolorad import publish
from smolorad.domain import (
    Adapter,
    Dataset,
    DatasetReport,
    JobKind,
    JobSpec,
    LoraSettings,
    MergeSpec,
    Model,
    Origin,
    PrepareSpec,
    Ref,
    TrainSpec,
)
from smolorad.errors import BadState
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.folder_and_row import put
from smolorad.jobs.units import Units
from tests.unit.jobs.conftest import Desk

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
async def artifacts(desk: Desk) -> Artifacts:
    """With the model `m`, the adapter `a@1` of it, and the dataset `d@1`."""
    home, library = desk.home, desk.library
    model = Model("m", NOW, Origin.FOLDER, "", "", "llama", 1, 1, str(home.model("m")))
    path, lora = str(home.adapter(Ref("a", 1))), LoraSettings()
    adapter = Adapter("a", 1, NOW, Origin.FOLDER, "m", "", "", "", lora, None, 0, 0.0, None, None, 1, 1, path)
    dataset = Dataset("d", 1, NOW, 1, 0, DatasetReport(), "", "", str(home.dataset(Ref("d", 1))))
    await put(stage(home.uploads / "m"), model, library.add_model)
    await put(stage(home.uploads / "a"), adapter, library.add_adapter)
    await put(stage(home.uploads / "d"), dataset, library.add_dataset)
    return Artifacts(home, desk.store, library, Units())


def stage(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "data").write_text("x")
    return folder


def unused(name: str) -> bool:
    return False


REMOVE: dict[str, Callable[[Artifacts], Awaitable[object]]] = {
    "dataset": lambda artifacts: artifacts.remove_dataset(Ref("d")),
    "adapter": lambda artifacts: artifacts.remove_adapter(Ref("a")),
    "model": lambda artifacts: artifacts.remove_model("m", unused),
}
TRAIN = TrainSpec(dataset="d@1", adapter="b", model="m", parent="a@1")


@pytest.mark.parametrize("kind", REMOVE)
async def test_what_a_job_needs_by_the_turn_of_a_removal_stays(desk: Desk, artifacts: Artifacts, kind: str) -> None:
    async with artifacts._one_at_a_time:
        removal = asyncio.ensure_future(REMOVE[kind](artifacts))
        await asyncio.sleep(0)
        await desk.store.unfinished()  # after whatever the removal has asked before its turn
        await desk.store.create(JobKind.TRAIN, "b", TRAIN)
    with pytest.raises(BadState, match="needs it"):
        await removal
    assert (await desk.library.model("m")).path
    for path in (desk.home.model("m"), desk.home.adapter(Ref("a", 1)), desk.home.dataset(Ref("d", 1))):
        publish.verify(path)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [(JobKind.TRAIN, TRAIN), (JobKind.MERGE, MergeSpec("a@1", "merged")), (JobKind.PREPARE, PrepareSpec("p", model="m"))],
)
async def test_a_model_that_a_job_needs_stays(desk: Desk, artifacts: Artifacts, kind: JobKind, spec: JobSpec) -> None:
    job, _ = await desk.store.create(kind, "b", spec)
    with pytest.raises(BadState, match=f"Job {job.id} needs it"):
        await artifacts.remove_model("m", unused)
    publish.verify(desk.home.model("m"))


async def test_a_model_that_is_named_by_its_folder_stays(desk: Desk, artifacts: Artifacts) -> None:
    folder = str(desk.home.model("m"))
    with pytest.raises(BadState, match="m is loaded"):
        await artifacts.remove_model("m", lambda name: name == folder)
    await desk.store.create(JobKind.TRAIN, "b", dataclasses.replace(TRAIN, model=folder))
    with pytest.raises(BadState, match="needs it"):
        await artifacts.remove_model("m", unused)
    publish.verify(desk.home.model("m"))


async def test_jobs_of_other_models_keep_none(desk: Desk, artifacts: Artifacts) -> None:
    await desk.store.create(JobKind.TRAIN, "b", dataclasses.replace(TRAIN, model="n"))
    await desk.store.create(JobKind.PREPARE, "p", PrepareSpec("p"))
    await artifacts.remove_model("m", unused)
    assert not desk.home.model("m").exists()


async def test_a_model_that_a_load_finds_just_before_its_folder_is_hidden_stays(desk: Desk, artifacts: Artifacts) -> None:
    answers = iter([False, False, True])  # for its name and its folder, then again
    with pytest.raises(BadState, match="being loaded"):
        await artifacts.remove_model("m", lambda name: next(answers))
    publish.verify(Path((await desk.library.model("m")).path))
