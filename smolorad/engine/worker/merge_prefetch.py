"""What a merge must know of its base besides the weights, which can be had before anybody asks for the merge."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from smolorad.engine.model.folder import check, fingerprint
from smolorad.engine.model.pretrained import fitting_config
from smolorad.engine.model.transformers_folder import read_tokenizer

log = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class MergePrefetch:
    """A base folder that was found whole, and its tokenizer; both as long as no file of it changes."""

    base: Path
    stamp: Stamp
    tokenizer: Any

    @classmethod
    def of(cls, base: Path, *, trust_remote_code: bool = False) -> Self:
        """Reads every byte of the weights once; what was published here is held against its manifest.

        Raises what `folder.check`, `folder.fingerprint` and `read_tokenizer` raise.
        """
        stamp = _stamp(base)
        fingerprint(check(base, trust_remote_code=trust_remote_code))
        return cls(base, stamp, read_tokenizer(base, trust_remote_code))

    def is_current(self, base: Path) -> bool:
        """Whether this is still true, and of this base."""
        return base == self.base and _stamp(base) == self.stamp


def prefetch(base: Path) -> MergePrefetch | None:
    """As `MergePrefetch.of`, and has the code of the base's architecture imported; None where it fails: the merge says why."""
    try:
        prefetched = MergePrefetch.of(base)
        fitting_config(base, str(base))
        return prefetched
    except Exception as error:  # noqa: BLE001, libraries raise anything, and nobody has asked for this yet
        log.info("nothing is known of %s ahead of its merge: %s", base, error)
        return None


def _stamp(base: Path) -> Stamp:
    """What changes whenever a file of the folder is replaced, written or renamed."""
    with os.scandir(base) as entries:
        found = sorted((entry.name, entry.stat()) for entry in entries)
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in found)
