"""Prepares a merge before it is requested: checks the base's files and reads its tokenizer."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.model.pretrained import fitting_config
from smolorad.engine.model.transformers_folder import read_tokenizer

log = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class MergePrefetch:
    """A base folder that was checked, and its tokenizer. Valid until a file of the folder changes."""

    folder: ModelFolder
    stamp: Stamp
    tokenizer: Any

    @classmethod
    def of(cls, base: Path, *, trust_remote_code: bool = False) -> Self:
        """Reads every byte of the weights once, and compares it with the manifest of a published folder.

        Raises what `ModelFolder.open`, `ModelFolder.fingerprint` and `read_tokenizer` raise.
        """
        stamp = _stamp(base)
        folder = ModelFolder.open(base, trust_remote_code=trust_remote_code)
        folder.fingerprint()
        return cls(folder, stamp, read_tokenizer(base, trust_remote_code))

    def is_current(self, base: Path) -> bool:
        """Whether it is of this base, and still valid."""
        return base == self.folder.path and _stamp(base) == self.stamp


def prefetch(base: Path) -> MergePrefetch | None:
    """As `MergePrefetch.of`, and imports the code of the base's architecture; None where it fails: the merge says why."""
    try:
        prefetched = MergePrefetch.of(base)
        fitting_config(prefetched.folder)
        return prefetched
    except Exception as error:  # noqa: BLE001, libraries raise anything, and the merge is not requested yet
        log.info("cannot prepare a merge into %s: %s", base, error)
        return None


def _stamp(base: Path) -> Stamp:
    """What changes whenever a file of the folder is replaced, written or renamed."""
    with os.scandir(base) as entries:
        found = sorted((entry.name, entry.stat()) for entry in entries)
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found)
