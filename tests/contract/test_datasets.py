"""DatasetService, as any client sees it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from smolora.v1 import datasets_pb2 as pb
from smolora.v1 import jobs_pb2, training_pb2
from smolorad.domain import Note, PhaseProgress
from smolorad.errors import BadData, Violation
from tests.contract.house import House, everything, happened, loaded, prepared, refused, until, upload
from tests.fake_engine import Script, Wait

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


async def test_files_become_a_dataset_with_revisions(house: House) -> None:
    first = await prepared(house)
    second = await prepared(house)
    assert (first.name, first.revision, second.revision) == ("verses", 1, 2)
    assert (first.train_rows, first.report.rows_read, len(first.fingerprint)) == (2, 2, 64)
    assert (Path(first.path) / "manifest.json").is_file()
    assert first.HasField("create_time")
    assert list(house.settings.places.uploads.iterdir()) == []
    newest = await house.datasets.GetDataset(pb.GetDatasetRequest(name="verses"))
    assert newest.dataset == second
    assert (await house.datasets.GetDataset(pb.GetDatasetRequest(name="verses@1"))).dataset == first


async def test_the_stream_names_the_job_first_and_the_dataset_last(house: House) -> None:
    upload_id = await upload(house, ("b/x.txt", b"one\n"), ("a.txt", b"two\n"))
    stream = await everything(house.datasets.PrepareDataset(pb.PrepareDatasetRequest(name="d", upload_id=upload_id)))
    events = [message.job_event for message in stream[:-1]]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert len({event.job_id for event in events}) == 1
    assert [event.WhichOneof("body") for event in events] == ["state", "state", "phase", "state"]
    assert stream[-1].dataset.job_id == events[0].job_id
    assert stream[-1].dataset.report.files == 2


async def test_preview_shows_rows(house: House) -> None:
    await prepared(house)
    shown = await house.datasets.PreviewDataset(pb.PreviewDatasetRequest(name="verses", offset=1))
    assert (list(shown.rows), shown.total_rows) == (["two"], 2)
    for request, field in (
        (pb.PreviewDatasetRequest(name="verses", split="test"), "split"),
        (pb.PreviewDatasetRequest(name="verses", offset=-1), "offset"),
        (pb.PreviewDatasetRequest(name="verses", limit=101), "limit"),
    ):
        answer = await refused(house.datasets.PreviewDataset(request))
        assert (answer.code, answer.fields) == (INVALID, (field,))
    assert (await refused(house.datasets.PreviewDataset(pb.PreviewDatasetRequest(name="no")))).code == NOT_FOUND


async def test_lists_come_in_pages_newest_first(house: House) -> None:
    for name in ("a", "b", "c"):
        await prepared(house, name)
    await prepared(house, "a")
    one = await house.datasets.ListDatasets(pb.ListDatasetsRequest(page_size=2))
    two = await house.datasets.ListDatasets(pb.ListDatasetsRequest(page_size=2, page_token=one.next_page_token))
    assert [f"{d.name}@{d.revision}" for d in (*one.datasets, *two.datasets)] == ["a@2", "c@1", "b@1"]
    assert two.next_page_token == ""
    for request in (pb.ListDatasetsRequest(page_size=-1), pb.ListDatasetsRequest(page_size=1001)):
        assert (await refused(house.datasets.ListDatasets(request))).fields == ("page_size",)
    assert (await refused(house.datasets.ListDatasets(pb.ListDatasetsRequest(page_token="§")))).fields == ("page_token",)


async def test_a_revision_or_all_of_them_can_be_deleted(house: House) -> None:
    paths = [Path((await prepared(house)).path) for _ in range(3)]
    assert (await house.datasets.DeleteDataset(pb.DeleteDatasetRequest(name="verses@2"))).revisions == 1
    assert [path.exists() for path in paths] == [True, False, True]
    assert (await house.datasets.DeleteDataset(pb.DeleteDatasetRequest(name="verses"))).revisions == 2
    answer = await refused(house.datasets.DeleteDataset(pb.DeleteDatasetRequest(name="verses")))
    assert (answer.code, answer.reason) == (NOT_FOUND, "NOT_FOUND")
    assert (await prepared(house)).revision == 4


async def test_a_dataset_that_a_job_needs_is_not_deleted(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    gate = asyncio.Event()
    script.trainings.append([Wait(gate)])
    call = house.training.Train(training_pb2.TrainRequest(dataset="verses", adapter="a"))
    job_id = (await anext(aiter(call))).job_event.job_id
    answer = await refused(house.datasets.DeleteDataset(pb.DeleteDatasetRequest(name="verses")))
    assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BAD_STATE")
    assert job_id in answer.message
    gate.set()
    await everything(call)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.PrepareDatasetRequest(name="Verses", upload_id="0" * 16), "name"),
        (pb.PrepareDatasetRequest(name="d"), "upload_id"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, hub=pb.HubDataset(repo_id="a/b")), "upload_id"),
        (pb.PrepareDatasetRequest(name="d", hub=pb.HubDataset(repo_id="../b")), "hub.repo_id"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, validation=0.6), "validation"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, validation=float("nan")), "validation"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, chunk_size=-1), "chunk_size"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, seed=-1), "seed"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, file_type=99), "file_type"),  # type: ignore[arg-type]
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, request_id="x" * 129), "request_id"),
        (pb.PrepareDatasetRequest(name="d", upload_id="../../etc"), "upload_id"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, delimiter=",,"), "delimiter"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, near_duplicates=1.5), "near_duplicates"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, chunk_size=4, chunk_overlap=2), "chunk_overlap"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, columns={"promptt": "q"}), "columns"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, max_length=4), "max_length"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, text_field="a" * 70_000), "text_field"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, columns={"text": "\1" * 70_000}), "columns"),
        (pb.PrepareDatasetRequest(name="d", hub=pb.HubDataset(repo_id="a/b", split="a" * 70_000)), "hub"),
        (pb.PrepareDatasetRequest(name="d", upload_id="0" * 16, source_fingerprint="x" * 129), "source_fingerprint"),
    ],
)
async def test_a_wrong_field_is_named(house: House, request_: pb.PrepareDatasetRequest, field: str) -> None:
    answer = await refused(house.datasets.PrepareDataset(request_))
    assert (answer.code, answer.reason, answer.fields) == (INVALID, "INVALID_REQUEST", (field,))
    assert not (await house.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs


async def test_unknown_uploads_and_models_are_not_found(house: House) -> None:
    missing = pb.PrepareDatasetRequest(name="d", upload_id="0" * 16)
    assert (await refused(house.datasets.PrepareDataset(missing))).code == NOT_FOUND
    upload_id = await upload(house, ("a.txt", b"x"))
    answer = await refused(
        house.datasets.PrepareDataset(pb.PrepareDatasetRequest(name="d", upload_id=upload_id, model="nosuch"))
    )
    assert answer.code == NOT_FOUND


async def test_malformed_rows_end_the_stream_with_their_lines(house: House, script: Script) -> None:
    rows = [Violation("a.jsonl:3", "is no JSON"), Violation("a.jsonl:9", "has no field text")]
    script.work.append([Note("reading"), BadData("Two rows are malformed.", rows)])
    upload_id = await upload(house, ("a.jsonl", b"{}"))
    answer = await refused(house.datasets.PrepareDataset(pb.PrepareDatasetRequest(name="d", upload_id=upload_id)))
    assert (answer.code, answer.reason, answer.fields) == (INVALID, "BAD_DATA", ("a.jsonl:3", "a.jsonl:9"))
    assert (await refused(house.datasets.GetDataset(pb.GetDatasetRequest(name="d")))).code == NOT_FOUND
    # The files are still there, so that the caller may choose to drop those rows.
    again = pb.PrepareDatasetRequest(name="d", upload_id=upload_id, on_error=pb.ON_ERROR_DROP)
    assert (await everything(house.datasets.PrepareDataset(again)))[-1].dataset.revision == 1


def left(house: House) -> set[str]:
    """The uploads that are there still, and the folders of jobs."""
    places = house.settings.places
    return {path.name for path in (*places.uploads.iterdir(), *places.jobs.iterdir())}


async def test_files_of_a_failure_are_kept_until_that_dataset_is_prepared_again(house: House, script: Script) -> None:
    async def failed(name: str) -> str:
        script.work.append([BadData("A row is malformed.")])
        upload_id = await upload(house, ("a.jsonl", b"{}"))
        await refused(house.datasets.PrepareDataset(pb.PrepareDatasetRequest(name=name, upload_id=upload_id)))
        return upload_id

    first, second, other = await failed("d"), await failed("d"), await failed("e")
    await prepared(house, "f")  # the lane has gone on, so what is thrown away is gone
    assert left(house) == {second, other} - {first}
    await prepared(house, "d")
    assert left(house) == {other}
    assert await house.stop() == 0
    await house.start()  # which may be resumed still
    assert left(house) == {other}
    (job,) = [job for job in (await house.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs if job.target == "e"]
    await house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=job.id))
    watch = house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=job.id, after_sequence=job.last_sequence))
    assert (await everything(watch))[-1].job.result == "e@1"
    await happened(lambda: left(house) == set())


async def test_a_cancelled_preparation_leaves_nothing(house: House, script: Script) -> None:
    shared, waiting = await upload(house, ("a.txt", b"x\n")), await upload(house, ("a.txt", b"y\n"))
    gate = asyncio.Event()
    script.work.append([PhaseProgress("read"), Wait(gate)])
    first = house.datasets.PrepareDataset(pb.PrepareDatasetRequest(name="d", upload_id=shared))
    runs = (await until(first, lambda message: message.job_event.HasField("phase"))).job_event.job_id
    requests = [pb.PrepareDatasetRequest(name="e", upload_id=upload_id) for upload_id in (waiting, shared)]
    calls = [house.datasets.PrepareDataset(request) for request in requests]
    waits = [(await until(call, lambda message: bool(message.job_event.job_id))).job_event.job_id for call in calls]
    await house.jobs.CancelJob(jobs_pb2.CancelJobRequest(id=waits[0]))
    assert left(house) == {shared, runs}
    await house.jobs.CancelJob(jobs_pb2.CancelJobRequest(id=runs))
    last = await everything(calls[1])
    assert last[-1].dataset.train_rows == 1, "the files were still needed by the other job"
    assert left(house) == set()
    await house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=waits[0]))
    ended = (await everything(house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=waits[0]))))[-1].job
    assert ended.error.message == "The uploaded files are gone; prepare the dataset again from the files."


async def test_the_same_request_prepares_once(house: House, script: Script) -> None:
    upload_id = await upload(house, ("a.txt", b"x\n"))
    request = pb.PrepareDatasetRequest(name="d", upload_id=upload_id, request_id="once")
    first, second = await asyncio.gather(
        everything(house.datasets.PrepareDataset(request)), everything(house.datasets.PrepareDataset(request))
    )
    third = await everything(house.datasets.PrepareDataset(request))
    assert first == second == third
    assert [name for name, _ in script.calls].count("prepare") == 1
    other = pb.PrepareDatasetRequest(name="e", upload_id=upload_id, request_id="once")
    answer = await refused(house.datasets.PrepareDataset(other))
    assert (answer.code, answer.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_a_wrong_upload_is_refused_and_leaves_nothing(house: House) -> None:
    async def parts(path: str = "a.txt", size: int = 3):  # type: ignore[no-untyped-def]
        yield pb.UploadFileRequest(header=pb.UploadHeader(path=path, size_bytes=size))
        yield pb.UploadFileRequest(data=b"abc")

    for stream, field in ((parts(path="../x"), "header.path"), (parts(size=4), "header.size_bytes")):
        answer = await refused(house.datasets.UploadFile(stream))
        assert (answer.code, answer.fields) == (INVALID, (field,))
    assert list(house.settings.places.uploads.iterdir()) == []


async def test_tokens_are_counted_by_the_resident_model(house: House, script: Script, short_path: Path) -> None:
    folder = short_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    await loaded(house, str(folder))
    await prepared(house)
    ((spec, tokenizer),) = [(details[0], details[2]) for name, details in script.calls if name == "prepare"]  # type: ignore[index]
    assert tokenizer == folder / "tokenizer.json"
    assert spec.model == str(folder), "the report names the model as the user does"


async def test_the_engine_makes_ready_for_a_training_while_a_dataset_is_made(house: House, script: Script) -> None:
    def expected() -> int:
        return [name for name, _ in script.calls].count("expect_training")

    await prepared(house)
    assert expected() == 0  # nobody is there to hear it
    await loaded(house)
    await prepared(house)
    await happened(lambda: expected() == 1)


async def test_it_does_so_once_a_model_is_loaded_meanwhile(house: House, script: Script) -> None:
    gate = asyncio.Event()
    script.loads.append([Wait(gate)])
    loading = asyncio.create_task(loaded(house))
    await happened(lambda: any(name == "load" for name, _ in script.calls))
    await prepared(house)
    gate.set()
    await loading
    await happened(lambda: any(name == "expect_training" for name, _ in script.calls))


# Unchanged files


async def test_unchanged_files_answer_from_their_fingerprint(house: House, script: Script) -> None:
    upload_id = await upload(house, ("a.txt", b"one\ntwo\n"))
    request = pb.PrepareDatasetRequest(name="d", upload_id=upload_id, source_fingerprint="f1", chunk_size=3)
    first = (await everything(house.datasets.PrepareDataset(request)))[-1].dataset
    again = pb.PrepareDatasetRequest(name="d", source_fingerprint="f1", chunk_size=3)
    *events, last = await everything(house.datasets.PrepareDataset(again))
    assert last.dataset == first
    assert {message.job_event.job_id for message in events} == {first.job_id}
    assert [name for name, _ in script.calls].count("prepare") == 1
    for other in (
        pb.PrepareDatasetRequest(name="d", source_fingerprint="f2", chunk_size=3),
        pb.PrepareDatasetRequest(name="d", source_fingerprint="f1"),
        pb.PrepareDatasetRequest(name="e", source_fingerprint="f1", chunk_size=3),
    ):
        answer = await refused(house.datasets.PrepareDataset(other))
        assert (answer.code, answer.reason) == (NOT_FOUND, "NOT_FOUND")


async def test_what_a_revision_added_and_removed_is_told(house: House) -> None:
    for rows in (b"one\ntwo\n", b"two\nthree\n"):
        upload_id = await upload(house, ("a.txt", rows))
        await everything(house.datasets.PrepareDataset(pb.PrepareDatasetRequest(name="d", upload_id=upload_id)))
    diff = await house.datasets.DiffDatasets(pb.DiffDatasetsRequest(before="d@1", after="d"))
    assert (diff.added_rows, diff.removed_rows, diff.same_rows) == (1, 1, 1)
    assert (list(diff.added), list(diff.removed)) == (["three"], ["one"])
    answer = await refused(house.datasets.DiffDatasets(pb.DiffDatasetsRequest(before="no", after="d")))
    assert answer.code == NOT_FOUND
    answer = await refused(house.datasets.DiffDatasets(pb.DiffDatasetsRequest(before="d", after="D")))
    assert (answer.code, answer.fields) == (INVALID, ("after",))
    answer = await refused(house.datasets.DiffDatasets(pb.DiffDatasetsRequest(before="d", after="d", limit=101)))
    assert answer.fields == ("limit",)
