"""TrainingService and JobService: durable work, with or without a watcher."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from smolora.v1 import common_pb2, datasets_pb2, generation_pb2, jobs_pb2, models_pb2, settings_pb2
from smolora.v1 import training_pb2 as pb
from smolorad.domain import Checkpoint, Estimate, TrainProgress
from smolorad.errors import OutOfMemory
from smolorad.services import job_stream
from tests.contract.house import House, everything, loaded, prepared, refused, trained, until
from tests.fake_engine import Death, FakeEngine, Script, Wait

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
RUNNING, SUCCEEDED = jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATE_SUCCEEDED
TRAIN = pb.TrainRequest(dataset="verses", adapter="support", model="starter")


async def watched(house: House, job_id: str, after: int = 0) -> list[jobs_pb2.WatchJobResponse]:
    return await everything(house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=job_id, after_sequence=after)))


async def running(house: House, script: Script, *steps: object) -> tuple[grpc.aio.UnaryStreamCall, str, asyncio.Event]:  # type: ignore[type-arg]
    """A training that has reported its first progress and waits for the gate."""
    await prepared(house)
    gate = asyncio.Event()
    script.trainings.append([TrainProgress(1, 10, loss=3.0), Wait(gate), *steps])  # type: ignore[list-item]
    call = house.training.Train(TRAIN)
    event = await until(call, lambda message: message.job_event.HasField("train"))
    return call, event.job_event.job_id, gate


async def test_training_publishes_an_adapter_that_is_ready_in_memory(house: House, engines: list[FakeEngine]) -> None:
    await prepared(house)
    stream = await everything(house.training.Train(TRAIN))
    adapter = stream[-1].adapter
    assert (adapter.name, adapter.revision, adapter.base_model, adapter.dataset) == ("support", 1, "starter", "verses@1")
    assert (adapter.eval_loss_before, adapter.eval_loss_after, adapter.steps) == (3.0, 2.0, 2)
    assert (adapter.lora.r, adapter.trainer.learning_rate, adapter.base_dtype) == (8, 2e-4, common_pb2.DTYPE_FLOAT32)
    kinds = [message.job_event.WhichOneof("body") for message in stream[:-1]]
    assert kinds == ["state", "state", "evaluation", "train", "checkpoint", "train", "evaluation", "state"]
    assert engines[-1].adapters == {"support@1": Path(adapter.path)}
    assert (await trained(house, model="starter")).revision == 2
    assert not list(house.settings.places.jobs.iterdir())


async def test_what_a_job_was_asked_is_written_down_in_full(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    trainer = settings_pb2.TrainerSettings(max_steps=7, learning_rate=1e-3)
    await trained(house, trainer=trainer, lora=settings_pb2.LoraSettings(r=4, target_modules=["q_proj"]))
    (asked,) = [details for name, details in script.calls if name == "train"]
    _, training, _ = asked  # type: ignore[misc]
    lora, settings = training.lora, training.trainer
    assert training.dataset.parts[-2:] == ("verses", "1")
    assert (lora.r, lora.target_modules, lora.lora_alpha) == (4, ("q_proj",), 16)
    assert (settings.max_steps, settings.learning_rate, settings.save_steps) == (7, 1e-3, 50)


async def test_a_dropped_stream_does_not_end_the_job(house: House, script: Script) -> None:
    call, job_id, gate = await running(house, script)
    call.cancel()
    job = (await house.jobs.GetJob(jobs_pb2.GetJobRequest(id=job_id))).job
    assert (job.state, job.progress.loss) == (RUNNING, 3.0)
    gate.set()
    assert (await watched(house, job_id))[-1].job.state == SUCCEEDED
    assert script.cancelled == []


async def test_a_watch_goes_on_from_a_number(house: House, script: Script) -> None:
    call, job_id, gate = await running(house, script)
    seen = await until(
        house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=job_id)), lambda message: message.job_event.HasField("train")
    )
    gate.set()
    await everything(call)
    rest = await watched(house, job_id, seen.job_event.sequence)
    everything_again = await watched(house, job_id)
    assert [m.job_event.sequence for m in rest[:-1]] == list(range(4, len(everything_again)))
    assert rest[-1].job == everything_again[-1].job
    assert len(await watched(house, job_id, rest[-1].job.last_sequence)) == 1


async def test_a_quiet_stream_has_heartbeats(house: House, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_stream, "HEARTBEAT_S", 0.01)
    _, job_id, gate = await running(house, script)
    watch = house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=job_id))
    beat = await until(watch, lambda message: message.job_event.HasField("heartbeat"))
    assert (beat.job_event.job_id, beat.job_event.sequence) == (job_id, 3)
    gate.set()
    assert (await everything(watch))[-1].job.state == SUCCEEDED


async def test_cancel_ends_it_and_resume_goes_on(house: House, script: Script) -> None:
    call, job_id, _ = await running(house, script)
    await house.jobs.CancelJob(jobs_pb2.CancelJobRequest(id=job_id))
    answer = await refused(call)
    assert (answer.code, answer.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
    assert script.cancelled == ["train"]
    stopped = (await watched(house, job_id))[-1].job
    assert stopped.state == jobs_pb2.JOB_STATE_CANCELLED
    assert (await house.jobs.CancelJob(jobs_pb2.CancelJobRequest(id=job_id))).job == stopped
    resumed = (await house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=job_id))).job
    assert resumed.state in (jobs_pb2.JOB_STATE_QUEUED, RUNNING)
    ended = (await watched(house, job_id, stopped.last_sequence))[-1].job
    assert (ended.state, ended.result, ended.attempts) == (SUCCEEDED, "support@1", 2)
    again = await refused(house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=job_id)))
    assert (again.code, again.reason) == (PRECONDITION, "BAD_STATE")


async def test_a_held_job_says_so_and_a_waiting_one_says_why(house: House, script: Script) -> None:
    call, job_id, gate = await running(house, script)
    second = house.training.Train(pb.TrainRequest(dataset="verses", adapter="other", model="owner/other"))
    waiting = (await until(second, lambda message: message.job_event.HasField("state"))).job_event.job_id
    job = (await house.jobs.GetJob(jobs_pb2.GetJobRequest(id=waiting))).job
    assert job.waiting_for == f"job {job_id} runs; then owner/other is loaded in place of starter"
    await house.jobs.PauseJob(jobs_pb2.PauseJobRequest(id=job_id))
    await until(call, lambda message: message.job_event.state.state == jobs_pb2.JOB_STATE_PAUSED)
    await until(second, lambda message: message.job_event.note.text == "Loads owner/other in place of starter.")
    await until(second, lambda message: message.HasField("adapter"))
    assert (await house.jobs.GetJob(jobs_pb2.GetJobRequest(id=job_id))).job.state == jobs_pb2.JOB_STATE_PAUSED
    gate.set()
    assert (await house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id=job_id))).job.state == jobs_pb2.JOB_STATE_QUEUED
    assert (await watched(house, job_id))[-1].job.state == SUCCEEDED
    assert (await refused(house.jobs.PauseJob(jobs_pb2.PauseJobRequest(id=job_id)))).code == PRECONDITION
    assert (await refused(house.jobs.PauseJob(jobs_pb2.PauseJobRequest(id="nosuch")))).code == grpc.StatusCode.NOT_FOUND


async def test_a_failure_is_the_stream_s_and_the_job_s(house: House, script: Script) -> None:
    await prepared(house)
    script.trainings.append([OutOfMemory("Memory does not suffice; use a smaller batch.")])
    answer = await refused(house.training.Train(TRAIN))
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY")
    (job,) = [j for j in (await house.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs if j.kind == jobs_pb2.JOB_KIND_TRAIN]
    assert (job.state, job.error.reason) == (jobs_pb2.JOB_STATE_FAILED, "OUT_OF_MEMORY")


async def test_a_training_goes_on_when_its_engine_died(house: House, script: Script, engines: list[FakeEngine]) -> None:
    await prepared(house)
    script.trainings.append([TrainProgress(1, 2), Checkpoint(1), Death()])
    stream = await everything(house.training.Train(TRAIN))
    assert stream[-1].adapter.revision == 1
    states = [message.job_event.state.state for message in stream[:-1] if message.job_event.HasField("state")]
    assert states == [1, 2, 3, 1, 2, 4]
    assert len(engines) == 2


async def test_an_ending_daemon_interrupts_and_the_next_one_finishes(house: House, script: Script) -> None:
    _, job_id, _ = await running(house, script, TrainProgress(2, 10))
    waits = house.training.Train(pb.TrainRequest(dataset="verses", adapter="second"))
    second = (await anext(aiter(waits))).job_event.job_id
    assert (await house.jobs.GetJob(jobs_pb2.GetJobRequest(id=second))).job.queue_position == 0
    assert await house.stop() == 0
    await house.start()
    ended = [(await watched(house, one))[-1].job for one in (job_id, second)]
    assert [job.state for job in ended] == [SUCCEEDED, SUCCEEDED]
    states = [m.job_event.state.state for m in (await watched(house, job_id))[:-1] if m.job_event.HasField("state")]
    assert states == [1, 2, 3, 1, 2, 4]


async def test_merge_makes_a_model_of_its_own(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    await trained(house)
    stream = await everything(house.training.Merge(pb.MergeRequest(adapter="support", name="merged")))
    model = stream[-1].model
    assert (model.name, model.source, model.origin) == ("merged", "support@1", common_pb2.ORIGIN_MERGE)
    assert (model.merge_proof.greedy_agreement, model.resident) == (1.0, False)
    script.fingerprint = model.fingerprint
    assert (await loaded(house, "merged")).name == "merged"
    assert (await house.models.GetModel(models_pb2.GetModelRequest(name="merged"))).model.resident
    taken = await refused(house.training.Merge(pb.MergeRequest(adapter="support", name="merged")))
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_a_base_that_has_changed_is_not_merged_with(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    await trained(house)
    script.fingerprint = "a" * 64
    answer = await refused(house.training.Merge(pb.MergeRequest(adapter="support", name="merged")))
    assert (answer.code, answer.reason) == (PRECONDITION, "WRONG_BASE")


async def test_an_adapter_goes_on_from_another_in_its_shape(house: House, script: Script) -> None:
    await prepared(house)
    await trained(house, model="starter", lora=settings_pb2.LoraSettings(r=4))
    second = await trained(house, "wiser", parent="support")
    assert (second.parent, second.lora.r, second.base_model) == ("support@1", 4, "starter")
    _, training, _ = [details for name, details in script.calls if name == "train"][-1]  # type: ignore[misc]
    assert training.parent.parts[-2:] == ("support", "1")
    for rank in (16, 8):  # 8 is the default, but it was asked for
        shaped = pb.TrainRequest(dataset="verses", adapter="a", parent="support", lora=settings_pb2.LoraSettings(r=rank))
        assert (await refused(house.training.Train(shaped))).fields == ("lora",)
    same = await trained(house, "third", parent="support", lora=settings_pb2.LoraSettings(r=4))
    assert same.lora.r == 4


async def test_a_parent_stays_while_a_job_needs_it(house: House, script: Script) -> None:
    await prepared(house)
    await trained(house, model="starter")
    gate = asyncio.Event()
    script.trainings.append([Wait(gate)])
    call = house.training.Train(pb.TrainRequest(dataset="verses", adapter="wiser", parent="support"))
    await until(call, lambda message: message.job_event.state.state == jobs_pb2.JOB_STATE_RUNNING)
    answer = await refused(house.models.DeleteAdapter(models_pb2.DeleteAdapterRequest(name="support")))
    assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BAD_STATE")
    gate.set()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"adapter": "No Name"}, "adapter"),
        ({"dataset": "verses@0"}, "dataset"),
        ({"lora": settings_pb2.LoraSettings(r=0)}, "lora.r"),
        ({"lora": settings_pb2.LoraSettings(lora_dropout=1.0)}, "lora.lora_dropout"),
        ({"lora": settings_pb2.LoraSettings(init_lora_weights="loftq")}, "lora.init_lora_weights"),
        ({"lora": settings_pb2.LoraSettings(rank_pattern={"q_proj": 0})}, "lora.rank_pattern"),
        ({"lora": settings_pb2.LoraSettings(target_modules=[""])}, "lora.target_modules"),
        ({"lora": settings_pb2.LoraSettings(layers_to_transform=[-1])}, "lora.layers_to_transform"),
        ({"trainer": settings_pb2.TrainerSettings(max_steps=0)}, "trainer.max_steps"),
        ({"trainer": settings_pb2.TrainerSettings(learning_rate=float("inf"))}, "trainer.learning_rate"),
        ({"trainer": settings_pb2.TrainerSettings(optim="adamw_8bit")}, "trainer.optim"),
        ({"trainer": settings_pb2.TrainerSettings(max_steps=5, num_train_epochs=1)}, "trainer.num_train_epochs"),
        ({"trainer": settings_pb2.TrainerSettings(early_stopping_patience=1)}, "trainer.early_stopping_patience"),
        ({"trainer": settings_pb2.TrainerSettings(beta=0)}, "trainer.beta"),
        ({"trainer": settings_pb2.TrainerSettings(sample_prompts=["a", ""])}, "trainer.sample_prompts"),
        ({"trainer": settings_pb2.TrainerSettings(sample_prompts=["a"] * 17)}, "trainer.sample_prompts"),
        ({"trainer": settings_pb2.TrainerSettings(sample_prompts=["a" * 40_000] * 2)}, "trainer.sample_prompts"),
        ({"lora": settings_pb2.LoraSettings(target_modules=["ä" * 40_000])}, "lora.target_modules"),
        ({"lora": settings_pb2.LoraSettings(rank_pattern={"a" * 70_000: 2})}, "lora.rank_pattern"),
        ({"parent": "No Name"}, "parent"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"model": "No Model"}, "model"),
    ],
)
async def test_a_wrong_setting_is_named(house: House, change: dict[str, object], field: str) -> None:
    await prepared(house)
    request = pb.TrainRequest(**{"dataset": "verses", "adapter": "support", "model": "starter"} | change)  # type: ignore[arg-type]
    answer = await refused(house.training.Train(request))
    assert (answer.code, answer.reason, answer.fields) == (INVALID, "INVALID_REQUEST", (field,))
    assert len((await house.jobs.ListJobs(jobs_pb2.ListJobsRequest())).jobs) == 1


async def test_what_is_not_there_is_not_found(house: House) -> None:
    await prepared(house)
    calls = (
        house.training.Train(pb.TrainRequest(dataset="nosuch", adapter="a")),
        house.training.Train(pb.TrainRequest(dataset="verses@9", adapter="a")),
        house.training.Train(pb.TrainRequest(dataset="verses", adapter="a", model="nosuch")),
        house.training.Train(pb.TrainRequest(dataset="verses", adapter="a", model="/no/such/folder")),
        house.training.Train(pb.TrainRequest(dataset="verses", adapter="a", model="starter", parent="nosuch")),
        house.training.Merge(pb.MergeRequest(adapter="nosuch", name="m")),
        house.jobs.GetJob(jobs_pb2.GetJobRequest(id="nosuch")),
        house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id="nosuch")),
        house.jobs.CancelJob(jobs_pb2.CancelJobRequest(id="nosuch")),
        house.jobs.ResumeJob(jobs_pb2.ResumeJobRequest(id="nosuch")),
    )
    for call in calls:
        answer = await refused(call)
        assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_early_stopping_needs_held_out_rows(house: House) -> None:
    await prepared(house, validation=0.0)
    trainer = settings_pb2.TrainerSettings(early_stopping_patience=1, eval_steps=1)
    request = pb.TrainRequest(dataset="verses", adapter="a", model="starter", trainer=trainer)
    answer = await refused(house.training.Train(request))
    assert (answer.code, answer.fields) == (INVALID, ("trainer.early_stopping_patience",))
    assert answer.message.endswith("needs held-out rows, and verses@1 has none; prepare it with validation")


async def test_a_dataset_without_rows_is_not_trained_on(house: House) -> None:
    upload = datasets_pb2.PrepareDatasetRequest(name="empty", hub=datasets_pb2.HubDataset(repo_id="owner/empty"))
    await everything(house.datasets.PrepareDataset(upload))
    answer = await refused(house.training.Train(pb.TrainRequest(dataset="empty", adapter="a", model="starter")))
    assert (answer.code, answer.fields) == (INVALID, ("dataset",))


async def test_the_same_request_trains_once_also_when_the_dataset_went_on(house: House, script: Script) -> None:
    await prepared(house)
    request = pb.TrainRequest(dataset="verses", adapter="support", model="starter", request_id="once")
    first = await everything(house.training.Train(request))
    await prepared(house)
    assert await everything(house.training.Train(request)) == first
    assert [name for name, _ in script.calls].count("train") == 1


async def test_jobs_are_listed_in_pages(house: House) -> None:
    for name in ("a", "b", "c"):
        await prepared(house, name)
    one = await house.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=2))
    two = await house.jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=2, page_token=one.next_page_token))
    assert [job.target for job in (*one.jobs, *two.jobs)] == ["c", "b", "a"]
    assert (two.next_page_token, one.jobs[0].result) == ("", "c@1")


async def test_generation_is_answered_while_training_runs(house: House, script: Script) -> None:
    call, _, gate = await running(house, script)
    answer = await everything(house.generation.Generate(generation_pb2.GenerateRequest(prompt="hi")))
    assert answer[-1].outcome.model == "starter"
    for other in (
        house.models.LoadModel(models_pb2.LoadModelRequest(model="HuggingFaceTB/SmolLM2-135M-Instruct")),
        house.models.UnloadModel(models_pb2.UnloadModelRequest()),
    ):
        refusal = await refused(other)
        assert (refusal.code, refusal.reason) == (PRECONDITION, "BAD_STATE")
    assert (await loaded(house)).name == "starter"
    gate.set()
    await everything(call)


async def test_a_merge_is_expected_when_a_training_is_about_to_end(house: House, script: Script) -> None:
    await loaded(house)
    await prepared(house)
    script.trainings.append([TrainProgress(1, 10, eta_s=30.0)])
    await trained(house)
    assert script.merges_expected == [], "no merge was ever done here"
    await everything(house.training.Merge(pb.MergeRequest(adapter="support", name="merged")))
    script.trainings.append([TrainProgress(1, 10, eta_s=3600.0), TrainProgress(5, 10, eta_s=30.0), OutOfMemory("No.")])
    await refused(house.training.Train(TRAIN))
    assert [within_s for within_s, _ in script.merges_expected] == [90.0]
    script.merges_expected.clear()
    script.trainings.append([Estimate(1, 2, seconds=20.0), OutOfMemory("No.")])
    await refused(house.training.Train(TRAIN))
    assert [within_s for within_s, _ in script.merges_expected] == [80.0]
    script.merges_expected.clear()
    script.trainings.append([TrainProgress(1, 10, eta_s=3600.0)])
    await everything(house.training.Train(TRAIN))
    (within_s, base), *_ = script.merges_expected
    assert (within_s, base) == (60.0, Path("/nowhere"))
