"""Compares a home's folders with what its database lists."""

from __future__ import annotations

from pathlib import Path

from smolorad import publish
from smolorad.domain import Ref
from smolorad.paths import Home
from smolorad.store.database import Database
from smolorad.store.library import Library


async def listed_folders(home: Home) -> set[Path]:
    """The folders of everything that the database of a stopped daemon lists."""
    async with Database.open(home.database) as database:
        library = Library(database)
        names = {one.name for one in await library.datasets(1000)}
        datasets = [one for name in names for one in await library.dataset_revisions(Ref(name))]
        return {Path(one.path) for one in (*datasets, *await library.adapters(1000), *await library.models(1000))}


def lying_folders(home: Home) -> set[Path]:
    """The folders that lie where published ones do, whatever is in them."""
    nested = (*home.datasets.glob("*/*"), *home.adapters.glob("*/*"))
    return {*nested, *home.models.iterdir()}


async def assert_whole(home: Home) -> None:
    """Each row has its whole folder, each folder has its row, and nothing half-written is left."""
    listed, lying = await listed_folders(home), lying_folders(home)
    assert lying - listed == set(), "folders that no row lists"
    assert listed - lying == set(), "rows without their folder"
    for folder in listed:
        publish.verify(folder)
    assert [path.name for path in home.uploads.iterdir() if path.name.startswith(".")] == []
    assert [path for path in home.jobs.glob("*/stage/*")] == []
