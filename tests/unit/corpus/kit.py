"""What the corpus tests share: files to read, and somebody to prepare for."""

from __future__ import annotations

from pathlib import Path

from smolorad.domain import Note, PhaseProgress


def fill(folder: Path, files: dict[str, str]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


class Recorder:
    """A host that listens; `check` raises what was put into `stop` once it was asked so often."""

    def __init__(self, stop: Exception | None = None, after: int = 0) -> None:
        self.events: list[PhaseProgress | Note] = []
        self._stop = stop
        self._left = after

    def check(self) -> None:
        if self._stop is not None and self._left == 0:
            raise self._stop
        self._left -= 1

    def emit(self, event: PhaseProgress | Note) -> None:
        self.events.append(event)

    @property
    def notes(self) -> list[str]:
        """The notes told."""
        return [event.text for event in self.events if isinstance(event, Note)]
