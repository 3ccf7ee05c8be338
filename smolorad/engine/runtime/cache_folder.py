"""Folders of the cache: made once, and again where they are damaged. A damaged one never keeps a model from loading."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from smolorad import publish
from smolorad.errors import Damaged

log = logging.getLogger("smolorad.engine")

T = TypeVar("T")


def read_or_make(folder: Path, make: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """The result of `read` for a folder of the cache, after comparing every file with its sum.

    Where the folder is missing, or `read` raises Damaged or OSError, `make` writes it again, once, into an empty folder that
    replaces it. Raises what `make` raises, and Damaged or OSError where the cache cannot be used.
    """

    def verified() -> T:
        about = publish.verify(folder).get("about")
        if isinstance(about, dict) and about.get("name", folder.name) != folder.name:  # earlier releases wrote none
            raise Damaged(f"{folder} is a copy of {about['name']}; delete it.")
        return read(folder)

    try:
        return verified()
    except (Damaged, OSError) as error:
        if os.path.lexists(folder):
            log.warning("%s is damaged; making it again: %s", folder, error)

    def replaced() -> bool:
        try:
            verified()
        except (Damaged, OSError):
            return False
        return True

    _replace(folder, make, replaced)
    return read(folder)


def _replace(folder: Path, make: Callable[[Path], None], replaced: Callable[[], bool]) -> None:
    if not folder.parent.is_dir():
        publish.remove(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".stage-") as name:
        stage = Path(name, "new")
        stage.mkdir()
        make(stage)
        with _locked(folder.parent):
            if replaced():  # another process was faster, and may be reading the folder
                return
            publish.remove(folder)
            publish.publish(stage, folder, {"name": folder.name})


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from replacing anything in a folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
