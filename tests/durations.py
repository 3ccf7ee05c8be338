"""How `make test` shares the test files out: the longest ones first, so that all workers end at the same time.

`make durations` measures and writes `durations.json`. A file that is not in it counts as average.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

_KEPT = Path(__file__).with_name("durations.json")
# Files that share what takes long to make, a fixture of the whole session, are for one worker.
_TOGETHER = {"tests/e2e/test_node.py": "tests/e2e/test_main_job.py"}


def longest_first(items: list[pytest.Item]) -> None:
    """Sorts the tests by the time that their files take; within a file they stay as they are."""
    seconds: Mapping[str, float] = json.loads(_KEPT.read_text(encoding="utf-8"))
    average = sum(seconds.values()) / max(len(seconds), 1)
    items.sort(key=lambda item: -seconds.get(_file_of(item.nodeid), average))


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class Scheduling(LoadFileScheduling):
    """A file for a worker, or several."""

    def _split_scope(self, nodeid: str) -> str:
        return _TOGETHER.get(file := _file_of(nodeid), file)


class Measured:
    """A plugin that adds up what the workers report, and writes it down."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[_file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        rounded = {file: round(seconds, 1) for file, seconds in sorted(self._seconds.items())}
        _KEPT.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
