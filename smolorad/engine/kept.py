"""Folders of the cache: made once, found whole or made again. Whatever happened to one must never keep a model from loading."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from smolorad import publish
from smolorad.errors import AlreadyExists, Damaged

log = logging.getLogger("smolorad.engine")

T = TypeVar("T")


def kept(folder: Path, make: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """What `read` makes of a folder of the cache, every file of which is as it was written.

    Where it is not there, or `read` raises Damaged or OSError, `make` writes it anew, once, into an empty folder that takes its
    place. Raises what `make` raises, and Damaged or OSError where the cache cannot be used.
    """
    try:
        publish.verify(folder)
        return read(folder)
    except (Damaged, OSError) as error:
        if os.path.lexists(folder):
            log.warning("%s is damaged, and made again: %s", folder, error)
    _replace(folder, make)
    return read(folder)


def _replace(folder: Path, make: Callable[[Path], None]) -> None:
    if not folder.parent.is_dir():
        publish.remove(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".stage-") as name:
        stage = Path(name, "new")
        stage.mkdir()
        make(stage)
        publish.remove(folder)
        try:
            publish.publish(stage, folder, {})
        except AlreadyExists:  # another process was faster
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
