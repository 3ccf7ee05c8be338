"""After a crash: folders and rows are made to agree again.

A published folder without a row is recorded. A removal whose row is removed is finished, and one whose row exists is undone.
Empty folders are removed; others stay as they are, and the next revision skips their numbers.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from smolorad import publish
from smolorad.domain import Adapter, Dataset, Model
from smolorad.domain.bounds import REVISION
from smolorad.errors import AlreadyExists, Damaged, NoSpace
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.store.database import CannotWrite
from smolorad.store.library import Library

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of published folder."""

    name: str
    cls: type[Any]
    add: Callable[[Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder that lies where published ones do, and what its path says that it is."""

    folder: Path
    kind: _Kind
    name: str
    revision: int  # 0 for a model

    @property
    def key(self) -> tuple[str, str, int]:
        """As the library names it."""
        return self.kind.name, self.name, self.revision


async def adopt(home: Home, library: Library) -> int:
    """Makes folders and rows agree; returns how many folders were recorded.

    A folder's manifest has its record but for its place, so the lists can be rebuilt when the database is lost. Called before
    any call is answered and any job runs.
    """
    adopted = 0
    try:
        known = await library.places()
        for place in await asyncio.to_thread(_hidden, home, library):
            await _end_removal(place, library, recorded=place.key in known)
        known = await library.places()
        for place in await asyncio.to_thread(_visible, home, library):
            if place.key not in known:
                adopted += await _adopt(place)
    except (NoSpace, CannotWrite) as error:
        log.warning("cannot record folders before the next start", why=error.message)
    return adopted


async def _end_removal(place: _Place, library: Library, *, recorded: bool) -> None:
    """Puts a folder back whose row is there and whose files are; else both go."""
    hidden = place.folder
    if recorded:
        if await asyncio.to_thread(publish.is_whole, hidden, sums=False) and not hidden.with_name(_shown(hidden)).exists():
            await asyncio.to_thread(publish.put_back, hidden)
            log.info("interrupted removal undone", kind=place.kind.name, name=place.name)
            return
        if not hidden.with_name(_shown(hidden)).exists():
            await library.forget(*place.key)
    await asyncio.to_thread(shutil.rmtree, hidden, ignore_errors=True)


async def _adopt(place: _Place) -> bool:
    folder = place.folder
    try:
        if await asyncio.to_thread(_sweep_empty, folder):
            return False
        about = (await asyncio.to_thread(publish.read_manifest, folder)).get("about")
        item = msgspec.convert(
            {**(about if isinstance(about, dict) else {}), "path": str(folder)}, place.kind.cls, strict=False
        )
        if (item.name, getattr(item, "revision", 0)) != (place.name, place.revision):
            raise Damaged(f"{folder} is a copy of another; remove it.")
        await asyncio.to_thread(publish.verify, folder, sums=False)
    except (Damaged, msgspec.ValidationError, OSError, LookupError, TypeError) as error:
        log.warning("folder ignored: not of smolora, or damaged", folder=folder, why=error)
        return False
    try:
        await place.kind.add(item)
    except AlreadyExists:
        return False
    log.info("published folder recorded again", folder=folder)
    return True


def _kinds(home: Home, library: Library) -> tuple[tuple[_Kind, Path], ...]:
    return (
        (_Kind("dataset", Dataset, library.add_dataset), home.datasets),
        (_Kind("adapter", Adapter, library.add_adapter), home.adapters),
        (_Kind("model", Model, library.add_model), home.models),
    )


def _visible(home: Home, library: Library) -> list[_Place]:
    """NAME/REVISION/, revisions of a name in their order, and models' NAME/."""
    found = []
    for kind, root in _kinds(home, library):
        for name in _folders(root):
            if name.name.startswith("."):
                continue
            if kind.cls is Model:
                found.append(_Place(name, kind, name.name, 0))
            else:
                revisions = [path for path in _folders(name) if REVISION.fullmatch(path.name)]
                found += [_Place(path, kind, name.name, int(path.name)) for path in sorted(revisions, key=_number)]
    return found


def _hidden(home: Home, library: Library) -> list[_Place]:
    """Interrupted removals; those of earlier versions, which removed rows first, are completed."""
    found = []
    for kind, root in _kinds(home, library):
        for path in (*root.glob(".*"), *root.glob("*/.*")):
            shown = _shown(path)
            if path.parent == root and kind.cls is Model and path.name != shown:
                found.append(_Place(path, kind, shown, 0))
            elif path.parent != root and kind.cls is not Model and path.name != shown and REVISION.fullmatch(shown):
                found.append(_Place(path, kind, path.parent.name, int(shown)))
            elif path.name.startswith(".removed-"):
                shutil.rmtree(path, ignore_errors=True)
    return found


def _folders(root: Path) -> Iterator[Path]:
    """The folders in one; none where it may not be read."""
    try:
        return iter(sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()))
    except PermissionError as error:
        log.warning("no permission to read a folder; ignoring it", folder=root, why=error)
        return iter(())


def _number(path: Path) -> int:
    return int(path.name)


def _shown(hidden: Path) -> str:
    return hidden.name.removeprefix(publish.HIDDEN)


def _sweep_empty(folder: Path) -> bool:
    """Whether nothing is in a folder but, at most, a manifest; then it is removed. Earlier versions left such ones."""
    for path, folders, files in os.walk(folder, onerror=_raise):  # rglob passes over what may not be read
        here = Path(path)
        if any(here / name != folder / publish.MANIFEST for name in files) or any(
            (here / name).is_symlink() for name in folders
        ):
            return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _raise(error: OSError) -> None:
    raise error
