"""A dataset by its hub id, through the real `datasets` and `huggingface_hub`, in the real worker, from a hub on loopback."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from smolora.v1 import datasets_pb2
from smolorad.children.worker import WorkerProcesses
from smolorad.corpus.preview import preview
from smolorad.domain import HubDataset, PrepareSpec
from smolorad.link.v1 import link_pb2 as pb
from tests.hub import Hub, running_hub
from tests.unit.corpus.kit import fill
from tests.worker import Worker, running_worker

REPO, OTHER = "tests/verses", "tests/psalms"
ROWS = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in ("in the beginning", "", "in the beginning", " and "))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("repositories")
    with running_hub() as hub:
        hub.add(f"datasets/{REPO}", fill(root / "main", {"data/train.jsonl": ROWS, "data/test.jsonl": '{"text": "held"}\n'}))
        hub.add(f"datasets/{REPO}", fill(root / "old", {"data/train.jsonl": '{"text": "old"}\n'}), revision="old")
        hub.add("datasets/tests/secret", root / "main", gated=True)
        hub.add("datasets/tests/script", fill(root / "script", {"script.py": "raise SystemExit"}))
        hub.add("datasets/tests/nothing", fill(root / "nothing", {"README.md": "# Nothing"}))
        hub.add("datasets/tests/torn", fill(root / "torn", {"train.jsonl": '{"text": "a"}\n{"text": \n'}))
        yield hub


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("huggingface")


@pytest.fixture(scope="module")
def worker(hub: Hub, cache: Path) -> Iterator[Worker]:
    """One for all: what takes its time is to import `datasets`."""
    with running_worker({"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache)}, "smolorad.corpus") as worker:
        yield worker


def ask(worker: Worker, output: Path, repo: str = REPO, **hub: str) -> list[pb.Event]:
    """Prepares a dataset of the hub; nothing is held out."""
    source = datasets_pb2.HubDataset(repo_id=repo, **hub)
    request = datasets_pb2.PrepareDatasetRequest(name="d", hub=source, validation=0)
    return worker.call(prepare=pb.Prepare(request=request, output_path=str(output)))


def refusal(events: list[pb.Event]) -> tuple[str, str]:
    return events[-1].failure.reason, events[-1].failure.message


@pytest.mark.parametrize(
    ("choice", "rows"),
    [({}, ["in the beginning", "and"]), ({"split": "test"}, ["held"]), ({"revision": "old"}, ["old"])],
)
def test_a_split_of_a_revision_is_prepared(worker: Worker, tmp_path: Path, choice: dict[str, str], rows: list[str]) -> None:
    events = ask(worker, tmp_path / "out", **choice)
    assert events[0].phase.phase == "download"
    assert list(preview(tmp_path / "out", "train", 0, 10).rows) == rows
    report = events[-1].prepared.report
    assert (report.files, report.rows_kept) == (1, len(rows))
    if not choice:
        assert (report.rows_read, report.rows_empty, report.rows_duplicate) == (4, 1, 1)


@pytest.mark.parametrize(
    ("choice", "reason", "words"),
    [
        ({"repo": "tests/nosuch"}, "NOT_FOUND", ["no dataset tests/nosuch on the hub", "spelling", "HF_TOKEN"]),
        ({"repo": "tests/secret"}, "NOT_FOUND", ["tests/secret", "HF_TOKEN"]),
        ({"split": "nosuch"}, "NOT_FOUND", [REPO, "nosuch", "train", "test", "--split"]),
        ({"config": "nosuch"}, "NOT_FOUND", [REPO, "nosuch", "default", "--config"]),
        ({"revision": "nosuch"}, "NOT_FOUND", [REPO, "no revision 'nosuch'"]),
        ({"repo": "csv"}, "INVALID_REQUEST", ["hub.repo_id", "owner/name"]),
        ({"repo": "tests/script"}, "BAD_DATA", ["tests/script", "scripts are no longer supported"]),
        ({"repo": "tests/nothing"}, "BAD_DATA", ["tests/nothing", "data files"]),
        ({"repo": "tests/torn"}, "BAD_DATA", ["tests/torn"]),
    ],
)
def test_what_cannot_be_had_is_named(
    worker: Worker, tmp_path: Path, choice: dict[str, str], reason: str, words: list[str]
) -> None:
    got, message = refusal(ask(worker, tmp_path / "out", **choice))
    assert got == reason, message
    assert [word for word in words if word not in message] == []
    assert str(tmp_path.parent) not in message
    assert not (tmp_path / "out").exists()


def test_where_the_hub_is_away_its_cache_is_taken_and_that_is_told(
    hub: Hub, cache: Path, worker: Worker, tmp_path: Path
) -> None:
    commit = hub.add(f"datasets/{OTHER}", fill(tmp_path / "repository", {"train.jsonl": ROWS}))
    ask(worker, tmp_path / "before", repo=OTHER)
    hub.down = True
    try:
        with running_worker({"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache)}, "smolorad.corpus") as other:
            events = ask(other, tmp_path / "out", repo=OTHER)
            note, unused = [event.note.text for event in events if event.WhichOneof("body") == "note"]
            assert unused == "Not used: id."
            assert note.endswith(f"{OTHER} comes from the cache, at commit {commit}.")
            assert preview(tmp_path / "out", "train", 0, 10) == preview(tmp_path / "before", "train", 0, 10)
            assert ask(other, tmp_path / "same", repo=OTHER, revision=commit)[-1].HasField("prepared")
            # Of another revision `datasets` would take whatever came last.
            for choice in ({"repo": OTHER, "revision": "v2"}, {"repo": "tests/never"}):
                reason, message = refusal(ask(other, tmp_path / "none", **choice))
                assert (reason, choice["repo"] in message, "503" in message) == ("HUB_UNREACHABLE", True, True)
    finally:
        hub.down = False


def test_a_hub_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with running_hub() as gone:
        pass
    environ = {"HF_ENDPOINT": gone.endpoint, "HF_HOME": str(tmp_path / "cache")}
    with running_worker(environ, "smolorad.corpus") as worker:
        reason, message = refusal(ask(worker, tmp_path / "out"))
    assert reason == "HUB_UNREACHABLE"
    assert REPO in message
    assert "check the network" in message


@pytest.mark.timeout(60)
async def test_a_download_that_hangs_is_cancelled_all_the_same(hub: Hub, tmp_path: Path) -> None:
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DOWNLOAD_TIMEOUT": "600"}
    workers = WorkerProcesses(environ, tmp_path)
    hub.hold_once("train.jsonl", after=1)
    before = set(psutil.Process().children())
    try:
        async with asyncio.TaskGroup() as tasks:
            preparing = tasks.create_task(
                consumed(workers.prepare(PrepareSpec("d", hub=HubDataset(REPO)), None, None, tmp_path / "out"))
            )
            await asyncio.to_thread(hub.held.wait)
            preparing.cancel()
    finally:
        hub.released.set()
    assert preparing.cancelled()
    assert set(psutil.Process().children()) == before
    assert not (tmp_path / "out").exists()


async def consumed(events: AsyncGenerator[object, None]) -> None:
    """Takes all events, as a job does."""
    async with aclosing(events):
        async for _ in events:
            pass
