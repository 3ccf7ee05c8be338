"""After a crash: what was published but not recorded is recorded, and what nobody will finish is swept away."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from smolorad import publish
from smolorad.domain import Adapter, Dataset, Model
from smolorad.errors import AlreadyExists, Damaged
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.store.library import Library

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of published folder."""

    folders: Iterator[Path]
    cls: type[Any]
    add: Callable[[Any], Awaitable[None]]


async def adopt(home: Home, library: Library) -> int:
    """Records every published folder that the library does not know; returns how many.

    A folder's manifest has its record but for its place, so the lists can be rebuilt when the database is lost. Called before
    any job runs.
    """
    kinds = (
        _Kind(_nested(home.datasets), Dataset, library.add_dataset),
        _Kind(_nested(home.adapters), Adapter, library.add_adapter),
        _Kind(_flat(home.models), Model, library.add_model),
    )
    adopted = 0
    for kind in kinds:
        for folder in kind.folders:
            if folder.name.startswith("."):  # a removal that did not come to its end
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                continue
            adopted += await _adopt(folder, kind)
    return adopted


async def _adopt(folder: Path, kind: _Kind) -> bool:
    try:
        about = (await asyncio.to_thread(publish.read_manifest, folder)).get("about")
        item = msgspec.convert({**(about if isinstance(about, dict) else {}), "path": str(folder)}, kind.cls, strict=False)
    except (Damaged, msgspec.ValidationError) as error:
        log.warning("a folder is not ours, or is damaged; it is left alone", folder=folder, why=error)
        return False
    try:
        await kind.add(item)
    except AlreadyExists:
        return False
    log.info("a published folder is recorded again", folder=folder)
    return True


def _flat(root: Path) -> Iterator[Path]:
    return iter(sorted(path for path in root.iterdir() if path.is_dir()))


def _nested(root: Path) -> Iterator[Path]:
    """NAME/REVISION/, revisions of a name in their order."""
    for name in _flat(root):
        revisions = [path for path in name.iterdir() if path.is_dir()]
        yield from sorted(revisions, key=lambda path: (not path.name.isdigit(), int(path.name) if path.name.isdigit() else 0))
