"""Calls with one answer, uploads, and the arguments of both clients."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import smolora
from smolora.v1 import common_pb2, datasets_pb2, generation_pb2, jobs_pb2, models_pb2, system_pb2, training_pb2
from tests.unit.client.fake_daemon import FakeDaemon, adapter, answers, event, fail, job


async def test_status(daemon: FakeDaemon, client: Any) -> None:
    resident = models_pb2.ResidentModel(name="starter", device=common_pb2.DEVICE_CPU, dtype=common_pb2.DTYPE_BFLOAT16)
    daemon.script["GetStatus"] = answers(
        system_pb2.GetStatusResponse(version="0.1.0", engine_state=system_pb2.ENGINE_STATE_READY, resident=resident)
    )
    status = await client.status()
    assert (status.version, status.engine_state, status.unload_time) == ("0.1.0", "ready", None)
    assert (status.resident.name, status.resident.device) == ("starter", "cpu")


async def test_lists_follow_their_pages_to_the_limit(daemon: FakeDaemon, client: Any) -> None:
    async def pages(request: Any, context: Any) -> Any:
        first = int(request.page_token or 0)
        jobs = [job(id=f"j{n}") for n in range(first, min(first + min(request.page_size, 3), 7))]
        more = first + len(jobs)
        return jobs_pb2.ListJobsResponse(jobs=jobs, next_page_token=str(more) if more < 7 else "")

    daemon.script["ListJobs"] = pages
    assert [one.id for one in await client.jobs()] == [f"j{n}" for n in range(7)]
    assert [one.id for one in await client.jobs(limit=4)] == ["j0", "j1", "j2", "j3"]


async def test_what_is_asked_arrives(daemon: FakeDaemon, client: Any, short_path: Path) -> None:
    daemon.script |= {
        "Shutdown": answers(system_pb2.ShutdownResponse()),
        "UnloadModel": answers(models_pb2.UnloadModelResponse(name="starter")),
        "GetModel": answers(models_pb2.GetModelResponse(model=models_pb2.Model(name="m", origin=4))),
        "DeleteModel": answers(models_pb2.DeleteModelResponse()),
        "ListModels": answers(models_pb2.ListModelsResponse(models=[models_pb2.Model(name="m", origin=4)])),
        "ListAdapters": answers(models_pb2.ListAdaptersResponse(adapters=[adapter()])),
        "GetAdapter": answers(models_pb2.GetAdapterResponse(adapter=adapter())),
        "DeleteAdapter": answers(models_pb2.DeleteAdapterResponse(revisions=2)),
        "ExportAdapter": answers(models_pb2.ExportAdapterResponse(path="/out")),
        "ListDatasets": answers(datasets_pb2.ListDatasetsResponse(datasets=[datasets_pb2.Dataset(name="d")])),
        "GetDataset": answers(datasets_pb2.GetDatasetResponse(dataset=datasets_pb2.Dataset(name="d"))),
        "PreviewDataset": answers(datasets_pb2.PreviewDatasetResponse(rows=["a"], total_rows=9)),
        "DeleteDataset": answers(datasets_pb2.DeleteDatasetResponse(revisions=1)),
        "CancelJob": answers(jobs_pb2.CancelJobResponse(job=job(jobs_pb2.JOB_STATE_CANCELLED))),
        "ResumeJob": answers(jobs_pb2.ResumeJobResponse(job=job(jobs_pb2.JOB_STATE_QUEUED))),
        "GetJob": answers(jobs_pb2.GetJobResponse(job=job())),
        "CountTokens": answers(generation_pb2.CountTokensResponse(tokens=2, token_ids=[5, 6])),
        "DecodeTokens": answers(generation_pb2.DecodeTokensResponse(text="hi ho")),
    }
    await client.shutdown(grace=2.5)
    assert daemon.asked("Shutdown")[0].grace.ToTimedelta().total_seconds() == 2.5
    assert await client.unload() == "starter"
    assert (await client.model("m")).origin == "merge"
    await client.delete_model("m")
    assert [one.name for one in await client.models()] == ["m"]
    assert [one.revision for one in await client.adapters("poet")] == [1]
    assert (await client.adapter("poet@1")).eval_loss_after == 2.0
    assert await client.delete_adapter("poet") == 2
    assert await client.export_adapter("poet", "out") == Path("/out")
    assert daemon.asked("ExportAdapter")[0].path == f"{os.getcwd()}/out"
    assert [one.name for one in await client.datasets()] == ["d"]
    assert (await client.dataset("d")).name == "d"
    assert await client.preview("d", split="validation", limit=1) == smolora.Preview(("a",), 9)
    await client.preview("d", model=Path("tiny"))
    await client.preview("d", model="tiny")
    assert [asked.model for asked in daemon.asked("PreviewDataset")] == ["", f"{os.getcwd()}/tiny", "tiny"]
    assert await client.delete_dataset("d") == 1
    assert (await client.cancel("j1")).state == "cancelled"
    assert (await client.resume("j1")).state == "queued"
    assert (await client.job("j1")).kind == "train"
    turns = [{"role": "user", "content": "hi"}, smolora.ChatMessage("assistant", "ho")]
    assert await client.count_tokens(messages=turns) == smolora.TokenCount(2, (5, 6))
    assert [turn.content for turn in daemon.asked("CountTokens")[0].messages] == ["hi", "ho"]
    assert await client.decode_tokens(iter((5, 6)), skip_special_tokens=True) == "hi ho"
    assert list(daemon.asked("DecodeTokens")[0].token_ids) == [5, 6]


async def test_a_folder_is_uploaded_whole_and_prepared(
    daemon: FakeDaemon, client: Any, uploads: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / ".git").mkdir()
    (tmp_path / "notes" / ".git" / "config").write_text("hidden")
    (tmp_path / "notes" / ".hidden").write_text("hidden")
    (tmp_path / "notes" / "b.txt").write_bytes(b"x" * (3 * 512 * 1024 + 1))
    (tmp_path / "notes" / "deep" / "a.txt").write_text("a")
    (tmp_path / "notes" / "empty.txt").write_text("")

    async def prepare(request: Any, context: Any) -> Any:
        if not request.upload_id:
            await fail(context, "NOT_FOUND", "There is no dataset 'd', nor any other yet.")
        yield datasets_pb2.PrepareDatasetResponse(job_event=event(1))
        yield datasets_pb2.PrepareDatasetResponse(dataset=datasets_pb2.Dataset(name="d", revision=1))

    daemon.script["PrepareDataset"] = prepare
    settings = {"splits": "ignore", "strict_groups": True, "model": "./tiny"}
    run = await client.prepare("d", tmp_path / "notes", file_type="txt", on_error="drop", validation=0.0, **settings)
    dataset = await (run.result() if isinstance(run, smolora.AsyncJobRun) else asyncio.to_thread(run.result))
    assert dataset.revision == 1
    assert list(uploads) == ["b.txt", "deep/a.txt", "empty.txt"]
    assert len(uploads["b.txt"]) == 3 * 512 * 1024 + 1
    asked = daemon.asked("PrepareDataset")[1]
    assert (asked.upload_id, asked.file_type, asked.on_error) == ("u1", datasets_pb2.FILE_TYPE_TXT, datasets_pb2.ON_ERROR_DROP)
    assert (asked.splits, asked.strict_groups) == (datasets_pb2.SPLITS_IGNORE, True)
    assert asked.model == f"{os.getcwd()}/tiny", "the daemon has a folder of its own"
    assert asked.HasField("validation")
    assert not asked.HasField("seed")
    assert asked.request_id


async def test_several_paths_keep_their_folders_names(
    daemon: FakeDaemon, client: Any, uploads: dict[str, bytes], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    seen: list[tuple[int, int]] = []
    assert await client.upload([tmp_path / "one", tmp_path / "two"], lambda done, total: seen.append((done, total))) == "u1"
    assert uploads == {"one/a.txt": b"one", "two/a.txt": b"two"}
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)


async def test_an_upload_the_daemon_refuses_raises_its_reason(daemon: FakeDaemon, client: Any, tmp_path: Path) -> None:
    async def refuse(requests: Any, context: Any) -> None:
        await fail(context, "NO_SPACE", "The disk is full.")

    daemon.script["UploadFile"] = refuse
    (tmp_path / "a.txt").write_bytes(b"x" * 2_000_000)
    with pytest.raises(smolora.NoSpace):
        await client.upload(tmp_path / "a.txt")


async def test_paths_that_cannot_be_uploaded_are_named(client: Any, tmp_path: Path) -> None:
    with pytest.raises(smolora.NotFound, match="nowhere does not exist"):
        await client.upload(tmp_path / "nowhere")
    with pytest.raises(smolora.InvalidRequest, match="no files in"):
        await client.upload(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(smolora.InvalidRequest, match="neither a file nor a folder"):
        await client.upload(tmp_path / "pipe")
    for name in (".a.txt", "a.txt"):
        (tmp_path / name).write_text("a")
    with pytest.raises(smolora.InvalidRequest, match=r"both be uploaded as a\.txt"):
        await client.upload([tmp_path / ".a.txt", tmp_path / "a.txt"])


async def test_files_of_several_folders_keep_what_their_folders_say(
    client: Any, uploads: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data/train/a.txt", "data/test/a.txt", "b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    train, test = tmp_path / "data" / "train" / "a.txt", tmp_path / "data" / "test" / "a.txt"
    expected = {"train/a.txt": b"data/train/a.txt", "test/a.txt": b"data/test/a.txt"}
    monkeypatch.chdir(tmp_path / "data")
    for paths in ([train, test], ["*/*.txt"], ["train/a.txt", "../data/test"]):
        await client.upload(paths)
        assert uploads == expected
        uploads.clear()
    await client.upload([train.parent, train, "test/a.txt"])
    assert uploads == expected
    uploads.clear()
    await client.upload([train, "../b.txt"])
    assert set(uploads) == {"data/train/a.txt", "b.txt"}


async def test_what_begins_with_a_dot_is_sent_where_it_is_itself_given(
    client: Any, uploads: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / ".notes.txt").write_text("one")
    (tmp_path / ".folder").mkdir()
    (tmp_path / ".folder" / "a.txt").write_text("two")
    (tmp_path / ".folder" / ".b.txt").write_text("three")
    await client.upload([tmp_path / ".notes.txt", tmp_path / ".folder"])
    assert uploads == {"notes.txt": b"one", "folder/a.txt": b"two"}


@pytest.mark.parametrize("change", ["grow", "shrink", "vanish", "close"])
async def test_a_file_that_changes_while_it_is_sent_is_named(
    client: Any, uploads: dict[str, bytes], tmp_path: Path, change: str
) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("first")
    second.write_bytes(b"x" * 3_000_000)

    def meanwhile(done: int, total: int) -> None:
        """Changes the second file as soon as the first is sent."""
        if done != first.stat().st_size:
            return
        if change in ("grow", "shrink"):
            os.truncate(second, 3_000_001 if change == "grow" else 1_000_000)
        elif second.is_file():
            second.unlink()
            if change == "close":
                second.mkdir()

    says = {"vanish": "does not exist; check", "close": r"cannot be read \(Is a directory\)"}
    told = says.get(change, "changed while it was sent; wait until it is whole")
    with pytest.raises(smolora.NotFound if change == "vanish" else smolora.InvalidRequest, match=rf"b\.txt {told}"):
        await client.upload(tmp_path, meanwhile)
    assert list(uploads) == ["a.txt"]


async def test_a_name_that_is_not_utf8_is_refused_before_anything_is_sent(
    client: Any, uploads: dict[str, bytes], tmp_path: Path
) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.txt")).write_text("a")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(smolora.InvalidRequest, match=r"'\\udcff\\udcfe\.txt' is not UTF-8, so it cannot be sent; rename"):
        await client.upload(tmp_path)
    assert not uploads


async def test_an_error_of_who_is_told_how_far_it_is_stays_as_it_is(
    client: Any, uploads: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ZeroDivisionError):
        await client.upload(tmp_path, lambda done, total: 1 // 0)


async def test_prepare_takes_one_source(daemon: FakeDaemon, client: Any) -> None:
    async def prepare(request: Any, context: Any) -> Any:
        yield datasets_pb2.PrepareDatasetResponse(job_event=event(1))
        yield datasets_pb2.PrepareDatasetResponse(dataset=datasets_pb2.Dataset(name="d"))

    daemon.script["PrepareDataset"] = prepare
    for wrong in ({}, {"paths": "a.txt", "hub": "owner/name"}, {"upload_id": "u1", "hub": "owner/name"}):
        with pytest.raises(smolora.InvalidRequest, match="exactly one of"):
            await client.prepare("d", **wrong)
    with pytest.raises(smolora.InvalidRequest, match="choose one of txt, jsonl, csv"):
        await client.prepare("d", hub="owner/name", file_type="pdf")
    await client.prepare("d", hub=smolora.HubDataset("owner/name", split="test"))
    assert daemon.asked("PrepareDataset")[0].hub.split == "test"


async def test_settings_go_by_their_names(daemon: FakeDaemon, client: Any) -> None:
    async def train(request: Any, context: Any) -> Any:
        yield training_pb2.TrainResponse(job_event=event(1))
        yield training_pb2.TrainResponse(adapter=adapter())

    daemon.script["Train"] = train
    await client.train(
        "verses",
        "poet",
        learning_rate=1e-3,
        max_steps=7,
        r=4,
        target_modules="all-linear",
        layers_to_transform=[0, 1],
        rank_pattern={"q_proj": 2},
        init_lora_weights=True,
        packing=False,
        lora_dropout=0,
        request_id="mine",
    )
    request = daemon.asked("Train")[0]
    assert (request.trainer.learning_rate, request.trainer.max_steps) == (1e-3, 7)
    assert request.trainer.HasField("packing")
    assert not request.trainer.HasField("seed")
    assert (request.lora.r, list(request.lora.target_modules), request.lora.init_lora_weights) == (4, ["all-linear"], "true")
    assert (list(request.lora.layers_to_transform), dict(request.lora.rank_pattern)) == ([0, 1], {"q_proj": 2})
    assert request.request_id == "mine"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"loraalpha": 1}, "did you mean 'lora_alpha'"),
        ({"zzz": 1}, "no setting 'zzz'"),
        ({"max_steps": "many"}, "max_steps takes a whole number, not 'many'"),
        ({"r": 2**40}, "r takes a whole number"),
        ({"rank_pattern": 3}, "rank_pattern takes whole numbers by module name"),
    ],
)
async def test_a_setting_that_is_none_is_refused_before_anything_is_sent(
    daemon: FakeDaemon, client: Any, wrong: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        await client.train("verses", "poet", **wrong)
    assert daemon.requests == []


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("generate", {"prompt": "\ud800"}),
        ("generate", {"messages": [{"role": "user", "content": "\ud800"}]}),
        ("generate", {"prompt": "x", "bad_words": ["\ud800"]}),
        ("generate", {"prompt": "x", "regex": "\ud800"}),
        ("count_tokens", {"prompt": "\ud800"}),
        ("load", {"model": "\ud800"}),
        ("prepare", {"name": "\ud800", "upload_id": "u1"}),
        ("prepare", {"name": "d", "hub": "\ud800"}),
        ("train", {"dataset": "d", "adapter": "a", "sample_prompts": ["\ud800"]}),
        ("merge", {"adapter": "a", "name": "\ud800"}),
        ("import_model", {"source": "/\ud800", "name": "m"}),
        ("export_adapter", {"name": "a", "path": "/\ud800"}),
        ("delete_dataset", {"name": "\ud800"}),
        ("job", {"job_id": "\ud800"}),
    ],
)
async def test_text_that_cannot_be_sent_is_an_invalid_request(client: Any, method: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(smolora.InvalidRequest, match="is not UTF-8 text"):
        await getattr(client, method)(**arguments)
