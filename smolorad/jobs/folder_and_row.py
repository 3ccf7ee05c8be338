"""A published folder and its row in the library: both are there, or neither."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from smolorad import publish
from smolorad.domain import Adapter, Dataset, Model
from smolorad.domain.bounds import REVISION
from smolorad.errors import NoSpace

T = TypeVar("T", bound=Dataset | Adapter | Model)


async def put(
    stage: Path,
    item: T,
    record: Callable[[T], Awaitable[None]],
    sums: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Publishes a stage and records it, or does neither: then it is a stage again, so that it can be tried once more."""
    final = Path(item.path)
    await asyncio.to_thread(publish.publish, stage, final, _about(item), sums)
    try:
        await record(item)
    except BaseException:
        with contextlib.suppress(OSError):  # what stays there is adopted by the next start, and skipped by the next revision
            await asyncio.to_thread(publish.withdraw, final, stage)
        raise


async def remove(paths: Iterable[str], forget: Callable[[], Awaitable[Any]], check: Callable[[], None] = lambda: None) -> None:
    """Hides folders, removes their rows in one transaction, which decides, then removes the files.

    `check` raises where a folder is in use after all: it was found just before it was hidden, from when on it is not found.
    Where the rows stay, the folders are put back: here, or at the next start of a daemon that is killed in between.
    """
    hidden: list[Path] = []
    try:
        for path in paths:
            hidden.append(await asyncio.to_thread(publish.hide, Path(path)))
        check()
        await _forget(hidden, forget)
    except BaseException:
        for one in hidden:
            with contextlib.suppress(OSError):  # the next start puts it back
                await asyncio.to_thread(publish.put_back, one)
        raise
    for one in hidden:
        await asyncio.to_thread(shutil.rmtree, one, ignore_errors=True)


async def _forget(hidden: Iterable[Path], forget: Callable[[], Awaitable[Any]]) -> None:
    """Removes rows. On a full disk the files go first: they make the room that it takes."""
    with contextlib.suppress(NoSpace):
        await forget()
        return
    for one in hidden:
        await asyncio.to_thread(publish.empty, one)
    try:
        await forget()
    except NoSpace as error:
        raise NoSpace("The files are removed, but the disk is full still; make room and remove the name again.") from error


def highest_revision(folder: Path) -> int:
    """The highest revision in a name's folder, valid or not; 0 where there is none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if REVISION.fullmatch(name)), default=0)


def _about(item: Dataset | Adapter | Model) -> Mapping[str, Any]:
    """The record as the manifest has it: without the folder's own place, which is where the manifest lies."""
    return {name: value for name, value in msgspec.to_builtins(item).items() if name != "path"}
