"""Whether a disk has room for what is about to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from smolorad.errors import NoRoom


def check_room(name: str, folder: Path, needed: int) -> None:
    """Raises NoRoom where `needed` bytes of the model `name` are more than what is free in `folder`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoRoom(
            f"{name} takes {needed / 1e9:,.2f} GB in {folder}, where {free / 1e9:,.2f} GB are free; make room and try again."
        )
