"""A file that says how far it is read: of one that unpacks to a thousand times its size no row may come for a minute."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from smolorad.corpus.report import Host
from smolorad.domain import PhaseProgress

_TELL_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file whose reader is asked now and then whether to end, and says how many of its bytes are read."""

    path: Path
    host: Host

    @property
    def suffix(self) -> str:
        """The ending of its name, with its dot."""
        return self.path.suffix

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """Its bytes from the beginning."""
        return cast(BinaryIO, io.BufferedReader(_Watched(self.path, self.host)))


class _Watched(io.FileIO):
    def __init__(self, path: Path, host: Host) -> None:
        super().__init__(path, "rb")
        self._host = host
        self._size = path.stat().st_size
        self._told_at = time.monotonic()

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        """As FileIO's; what the host raises ends the reading."""
        self._host.check()
        count = super().readinto(buffer)
        if (now := time.monotonic()) - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self._host.emit(PhaseProgress("read", self.tell(), self._size, "bytes"))
        return count
