"""What lies in the library without a row: the next revision passes over it, and a place that is taken is refused at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import pytest

from smolora.v1 import datasets_pb2, models_pb2, training_pb2
from tests.contract.house import House, everything, loaded, prepared, refused, trained, upload
from tests.contract.test_models import peft_files
from tests.fake_engine import Script

EXISTS = (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


@pytest.mark.parametrize("lying", ["empty", "of another", "a file", "whole"])
async def test_the_next_revision_passes_over_what_lies_there(house: House, lying: str) -> None:
    await prepared(house)
    await loaded(house)
    first = Path((await trained(house)).path)
    for revision in ("2", "3"):
        place = first.with_name(revision)
        match lying:
            case "empty":
                place.mkdir()
            case "of another":
                place.mkdir()
                (place / "notes.txt").write_text("mine")
            case "a file":
                place.write_text("mine")
            case "whole":
                shutil.copytree(first, place)
    assert (await trained(house)).revision == 4
    request = models_pb2.ImportAdapterRequest(upload_id=await upload(house, *peft_files()), name="support")
    assert (await house.models.ImportAdapter(request)).adapter.revision == 5
    (house.settings.places.datasets / "verses" / "7").mkdir()
    assert (await prepared(house)).revision == 8
    assert first.with_name("2").exists()


async def test_names_that_are_no_revisions_are_no_numbers(house: House) -> None:
    await prepared(house)
    await loaded(house)
    folder = house.settings.places.adapters / "support"
    for name in ("007", "²", "1.5", "-3", "9" * 30, ".removing-8", "notes"):
        (folder / name).mkdir(parents=True)
    assert (await trained(house)).revision == 1


async def test_a_taken_place_is_refused_before_the_work(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    await trained(house)
    places = house.settings.places
    (places.models / "taken").mkdir()
    (places.models / "taken" / "notes.txt").write_text("mine")
    (places.models / "empty").mkdir()
    (places.adapters / "taken").write_text("mine")
    (places.datasets / "taken").symlink_to(places.root)
    worked = len(script.calls)
    upload_id = await upload(house, *peft_files())
    for call in (
        house.training.Merge(training_pb2.MergeRequest(adapter="support", name="taken")),
        house.models.ImportModel(models_pb2.ImportModelRequest(source="starter", name="taken")),
        house.training.Train(training_pb2.TrainRequest(dataset="verses", adapter="taken")),
        house.models.ImportAdapter(models_pb2.ImportAdapterRequest(upload_id=upload_id, name="taken")),
        house.datasets.PrepareDataset(datasets_pb2.PrepareDatasetRequest(name="taken", upload_id=upload_id)),
    ):
        answer = await refused(call)
        assert (answer.code, answer.reason) == EXISTS
        assert "move it away, or choose another name" in answer.message
    assert [name for name, _ in script.calls[worked:] if name in ("merge", "train", "prepare")] == []
    assert (places.models / "taken" / "notes.txt").read_text() == "mine"
    made = await everything(house.training.Merge(training_pb2.MergeRequest(adapter="support", name="empty")))
    assert made[-1].model.name == "empty"
