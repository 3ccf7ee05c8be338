"""A home at another place than where it was filled: moved, or a copy beside the original."""

from __future__ import annotations

import shutil
from pathlib import Path

from smolora.v1 import datasets_pb2, models_pb2, training_pb2
from smolorad.app import Backends
from tests.contract.house import House, everything, loaded, prepared, settings_of, trained


async def filled(house: House) -> list[Path]:
    """Has the house make one thing of each kind; their folders."""
    dataset = await prepared(house)
    await loaded(house)
    adapter = await trained(house)
    merged = (await everything(house.training.Merge(training_pb2.MergeRequest(adapter="support", name="merged"))))[-1].model
    return [Path(one.path) for one in (dataset, adapter, merged)]


async def listed(house: House) -> list[Path]:
    """The folders of one thing of each kind."""
    dataset = (await house.datasets.GetDataset(datasets_pb2.GetDatasetRequest(name="verses"))).dataset
    adapter = (await house.models.GetAdapter(models_pb2.GetAdapterRequest(name="support"))).adapter
    model = (await house.models.GetModel(models_pb2.GetModelRequest(name="merged"))).model
    return [Path(one.path) for one in (dataset, adapter, model)]


async def test_a_copied_home_removes_its_own_folders(short_path: Path, backends: Backends) -> None:
    original = await House(settings_of(short_path / "a"), backends).start()
    folders = await filled(original)
    assert await original.stop() == 0
    home = settings_of(short_path / "b").places
    shutil.copytree(short_path / "a" / "home", home.root)

    copy = await House(settings_of(short_path / "b"), backends).start()
    there = await listed(copy)
    assert there == [home.root / folder.relative_to(short_path / "a" / "home") for folder in folders]
    assert all((folder / "manifest.json").is_file() for folder in there)
    await copy.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(name="verses"))
    await copy.models.DeleteAdapter(models_pb2.DeleteAdapterRequest(name="support"))
    await copy.models.DeleteModel(models_pb2.DeleteModelRequest(name="merged"))
    assert not any(folder.exists() for folder in there)
    assert all((folder / "manifest.json").is_file() for folder in folders)
    assert await copy.stop() == 0
