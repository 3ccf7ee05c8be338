"""Which files of a folder are meant."""

from __future__ import annotations

import os
from pathlib import Path


def visible_files(folder: Path) -> list[str]:
    """The files of a folder and of those below it, as sorted paths from it on: `notes/a.txt`.

    What begins with a dot is left out, and so are pipes, broken links, and folders that are links.
    """
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(where, name) for name in names if not name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    return sorted(found)
