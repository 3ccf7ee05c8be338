"""Structured logs."""

from __future__ import annotations

import errno
import io
import json
import logging
import logging.handlers
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smolorad import log as logs


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("smolorad")
    handlers, level, our_level, raising = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    ours.setLevel(our_level)


def written(tmp_path: Path, format: str) -> list[str]:
    file = tmp_path / "logs" / "d.log"
    logs.setup("info", format, file)
    log = logs.Log("smolorad.test")
    log.info("job moved", job="abc", state="running", why='she said "no"')
    log.debug("not wanted")
    try:
        raise ValueError("oh")
    except ValueError:
        log.exception("went wrong", job="abc")
    return file.read_text().splitlines()


def test_text_lines_have_fields_behind_the_message(tmp_path: Path) -> None:
    lines = written(tmp_path, "text")
    assert lines[0].endswith('info    job moved job=abc state=running why="she said \\"no\\""')
    assert "not wanted" not in "".join(lines)
    assert lines[-1] == "ValueError: oh"


def test_json_lines_are_objects(tmp_path: Path) -> None:
    first, second = (json.loads(line) for line in written(tmp_path, "json"))
    assert (first["message"], first["job"], first["level"]) == ("job moved", "abc", "info")
    assert second["traceback"].endswith("ValueError: oh")


def test_a_field_cannot_forge_a_line(tmp_path: Path) -> None:
    file = tmp_path / "d.log"
    logs.setup("info", "text", file)
    logs.Log("smolorad.test").info("x", name="a\nb info forged")
    assert len(file.read_text().splitlines()) == 1


def test_a_full_disk_ends_nothing_and_lines_come_again_when_there_is_room(tmp_path: Path) -> None:
    class Disk(io.FileIO):
        full = False

        def write(self, data: Any) -> int:
            if Disk.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    file = tmp_path / "d.log"
    logs.setup("info", "text", file)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.handlers.RotatingFileHandler)
    handler.maxBytes = 2000
    handler.stream.close()
    handler.stream = io.TextIOWrapper(io.BufferedWriter(Disk(file, "ab")), encoding="utf-8")
    log = logs.Log("smolorad.test")
    log.info("before")
    Disk.full = True
    for number in range(100):  # beyond the size at which the file is rotated
        log.info("while it lasts", number=number)
    Disk.full = False
    log.info("after")
    handler.flush()
    lines = "".join(path.read_text() for path in tmp_path.glob("d.log*"))
    assert "before" in lines
    assert "after" in lines
