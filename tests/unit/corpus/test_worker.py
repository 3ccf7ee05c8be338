"""`python -m smolorad.corpus`, the real process, as the daemon runs it."""

from __future__ import annotations

import os
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from smolora.v1 import datasets_pb2
from smolorad.children.worker import WorkerProcesses
from smolorad.domain import Dataset, DatasetReport, Note, PhaseProgress, Prepared, PrepareSpec, Shape
from smolorad.errors import BadData, EngineUnavailable, InvalidRequest, NotFound, SmoloraError
from smolorad.link.v1 import link_pb2 as pb
from tests.unit.corpus.kit import fill
from tests.worker import running_worker

SPEC = PrepareSpec("d", upload_id="u")


@pytest.fixture
def workers(tmp_path: Path) -> WorkerProcesses:
    return WorkerProcesses(os.environ, tmp_path / "cache")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More rows than are prepared before a cancel arrives."""
    return fill(tmp_path_factory.mktemp("long"), {"a.txt": "".join(f"{n}\n" for n in range(500_000))})


def dataset_at(path: Path) -> Dataset:
    """A record of a dataset in a folder; only its path is of interest."""
    return Dataset(
        name="d",
        revision=1,
        create_time=datetime.now(UTC),
        train_rows=0,
        validation_rows=0,
        report=DatasetReport(),
        fingerprint="",
        job_id="",
        path=str(path),
    )


async def test_files_are_prepared_with_progress_and_rows_can_be_looked_at(workers: WorkerProcesses, tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "one\ntwo\none\n", "b.log": "#"})
    async with aclosing(workers.prepare(SPEC, files, None, tmp_path / "out")) as events:
        *told, result = [event async for event in events]
    assert told == [
        Note("Left out: b.log."),
        PhaseProgress("read", 3, 3, "rows"),
        PhaseProgress("write", 2, 2, "rows"),
    ]
    assert isinstance(result, Prepared)
    report = result.report
    assert (result.train_rows, result.validation_rows, result.shape) == (1, 1, Shape.TEXT)
    assert (report.files, report.rows_read, report.rows_kept, report.rows_duplicate, report.words) == (1, 3, 2, 1, 2)
    shown = [await workers.preview(dataset_at(tmp_path / "out"), split, 0, 5) for split in ("train", "validation")]
    assert sorted((one.rows, one.total_rows) for one in shown) == [(("one",), 1), (("two",), 1)]


async def test_failures_keep_their_class_and_their_places(workers: WorkerProcesses, tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.jsonl": '{"text": "a"}\n[]\n'})
    with pytest.raises(BadData, match=r"a\.jsonl:2 holds an array") as caught:
        async with aclosing(workers.prepare(SPEC, files, None, tmp_path / "out")) as events:
            [event async for event in events]
    assert [violation.field for violation in caught.value.violations] == ["a.jsonl:2"]
    assert list(tmp_path.iterdir()) == [files]
    with pytest.raises(NotFound, match="no split validation"):
        await workers.preview(dataset_at(tmp_path), "validation", 0, 1)


async def test_who_leaves_early_ends_the_process(workers: WorkerProcesses, tmp_path: Path, long: Path) -> None:
    before = set(psutil.Process().children())
    async with aclosing(workers.prepare(SPEC, long, None, tmp_path / "out")) as events:
        assert isinstance(await anext(events), PhaseProgress)
        (worker,) = set(psutil.Process().children()) - before
    assert not worker.is_running()
    assert not (tmp_path / "out").exists()


async def test_a_killed_worker_leaves_nothing(workers: WorkerProcesses, tmp_path: Path, long: Path) -> None:
    before = set(psutil.Process().children())
    async with aclosing(workers.prepare(SPEC, long, None, tmp_path / "out")) as events:
        await anext(events)
        assert (tmp_path / "out" / "draft.arrow").exists()
        (worker,) = set(psutil.Process().children()) - before
        worker.kill()
        with pytest.raises(EngineUnavailable, match="corpus worker was ended by SIGKILL"):
            [event async for event in events]
    assert not (tmp_path / "out").exists()


def test_a_cancelled_preparation_leaves_nothing(tmp_path: Path, long: Path) -> None:
    request = datasets_pb2.PrepareDatasetRequest(name="d")
    command = pb.Prepare(files_path=str(long), request=request, output_path=str(tmp_path / "out"))
    with running_worker({}, "smolorad.corpus") as worker:
        heard: list[str] = []

        def cancel_first(event: pb.Event) -> None:
            if not heard:
                heard.append(event.phase.phase)
                worker.cancel()

        failure = worker.call(cancel_first, prepare=command)[-1].failure
        assert (heard, failure.reason) == (["read"], "CANCELLED")
        assert not (tmp_path / "out").exists()
        # It takes the next command as if nothing had been.
        files = fill(tmp_path / "in", {"a.txt": "one"})
        again = pb.Prepare(files_path=str(files), request=request, output_path=str(tmp_path / "out"))
        assert worker.call(prepare=again)[-1].prepared.train_rows == 1


def test_an_error_of_no_class_is_ours(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "one"})
    request = datasets_pb2.PrepareDatasetRequest(name="d")
    with running_worker({}, "smolorad.corpus") as worker:
        nowhere = pb.Prepare(files_path=str(files), request=request, output_path="a\0b")
        assert worker.call(prepare=nowhere)[-1].failure.reason == SmoloraError.reason


def test_what_the_system_refuses_is_no_bug(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "one"})
    (tmp_path / "file").touch()
    request = datasets_pb2.PrepareDatasetRequest(name="d")
    with running_worker({}, "smolorad.corpus") as worker:
        nowhere = pb.Prepare(files_path=str(files), request=request, output_path=str(tmp_path / "file" / "out"))
        failure = worker.call(prepare=nowhere)[-1].failure
        assert failure.reason == InvalidRequest.reason
        assert "Not a directory" in failure.message
