"""GenerationService: text, and its end."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from smolora.v1 import common_pb2, jobs_pb2, models_pb2, system_pb2, training_pb2
from smolora.v1 import generation_pb2 as pb
from smolorad.app import Backends
from smolorad.children.engine import AdapterFolder, LiveAdapter
from smolorad.domain import ResponseFormat, TokenLogprob, TopLogprob, TrainProgress
from smolorad.errors import EngineUnavailable, NotFinite, PromptTooLong, UnsupportedModel
from tests.contract.house import House, everything, loaded, prepared, refused, settings_of, trained, until
from tests.fake_engine import Death, Script, Wait

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


async def test_text_comes_in_pieces_and_ends_with_the_outcome(house: House) -> None:
    await loaded(house)
    stream = await everything(house.generation.Generate(pb.GenerateRequest(prompt="two words")))
    assert [message.text for message in stream[:-1]] == ["Hello", " world"]
    outcome = stream[-1].outcome
    assert outcome.finish_reason == common_pb2.FINISH_REASON_STOP
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (2, 2)
    assert (outcome.model, outcome.adapter, list(outcome.token_ids)) == ("starter", "", [0, 1])


async def test_defaults_are_filled_in_and_told(house: House, script: Script) -> None:
    await loaded(house)
    sampling = pb.Sampling(temperature=0, stop=["\n"], seed=0)
    request = pb.GenerateRequest(messages=[pb.ChatMessage(role="user", content="hi")], sampling=sampling)
    outcome = (await everything(house.generation.Generate(request)))[-1].outcome
    told = outcome.sampling
    assert (told.max_tokens, told.temperature, told.top_p, told.top_k) == (200, 0.0, 1.0, 0)
    assert (told.repetition_penalty, list(told.stop), told.seed) == (1.0, ["\n"], 0)
    spec, adapter = script.calls[-1][1]  # type: ignore[misc]
    assert (spec.messages[0].content, adapter) == ("hi", None)


async def test_an_adapter_answers_by_name_and_revision(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    for _ in range(2):
        await trained(house)
    for asked, key in (("support", "support@2"), ("support@1", "support@1")):
        outcome = (await everything(house.generation.Generate(pb.GenerateRequest(prompt="hi", adapter=asked))))[-1].outcome
        assert outcome.adapter == key
    missing = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi", adapter="nosuch")))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_an_adapter_of_another_base_is_refused_with_both_names(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    await trained(house)
    script.fingerprint = "a" * 64
    await loaded(house, "owner/other")
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi", adapter="support")))
    assert (answer.code, answer.reason) == (PRECONDITION, "WRONG_BASE")
    assert "owner/other" in answer.message
    assert "smolora-client load starter" in answer.message


async def test_a_client_that_goes_stops_the_engine(house: House, script: Script) -> None:
    await loaded(house)
    never = asyncio.Event()
    script.enqueue("Hello", Wait(never), " world")
    call = house.generation.Generate(pb.GenerateRequest(prompt="hi"))
    assert (await until(call, lambda message: message.text)).text == "Hello"
    call.cancel()
    async with asyncio.timeout(10):
        while (await house.system.GetStatus(system_pb2.GetStatusRequest())).active_generations:
            pass
    assert script.cancelled == ["generate"]


async def test_nothing_resident_and_nothing_named_says_what_to_type(house: House) -> None:
    for call in (
        house.generation.Generate(pb.GenerateRequest(prompt="hi")),
        house.generation.CountTokens(pb.CountTokensRequest(prompt="hi")),
    ):
        answer = await refused(call)
        assert (answer.code, answer.reason) == (PRECONDITION, "NO_MODEL")
        assert "Type `smolora-client load starter`" in answer.message


async def test_a_named_model_is_loaded_where_there_is_none_and_not_in_place_of_another(house: House) -> None:
    stream = await everything(house.generation.Generate(pb.GenerateRequest(prompt="hi", model="starter")))
    assert stream[-1].outcome.model == "starter"
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi", model="owner/other")))
    assert (answer.code, answer.reason) == (PRECONDITION, "BAD_STATE")
    assert "smolora-client load owner/other" in answer.message


async def test_a_model_that_is_not_there_is_not_found_though_another_is_resident(house: House) -> None:
    await loaded(house)
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi", model="nosuch")))
    assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_the_last_model_is_loaded_again_when_it_is_asked(house: House) -> None:
    await loaded(house)
    await house.models.UnloadModel(models_pb2.UnloadModelRequest())
    stream = await everything(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert stream[-1].outcome.model == "starter"


async def test_an_engine_that_dies_ends_the_answer_and_the_next_one_is_given(house: House, script: Script) -> None:
    await loaded(house)
    script.enqueue("Hel", Death())
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert answer.retry_s
    assert len(await everything(house.generation.Generate(pb.GenerateRequest(prompt="hi")))) == 3


async def test_an_engine_that_dies_before_its_first_word_is_asked_once_more(house: House, script: Script) -> None:
    await loaded(house)
    script.enqueue(Death())
    stream = await everything(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert [message.text for message in stream[:-1]] == ["Hello", " world"]
    script.enqueue(Death())
    script.enqueue(Death())
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PromptTooLong("The prompt has 900 tokens; the model holds 512."), INVALID),
        (UnsupportedModel("It has no chat template."), PRECONDITION),
        (NotFinite("The logits are not finite; load it in float32."), grpc.StatusCode.INTERNAL),
    ],
)
async def test_what_the_engine_refuses_is_told_as_it_says(house: House, script: Script, error: Exception, code: object) -> None:
    await loaded(house)
    script.enqueue(error)  # type: ignore[arg-type]
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert (answer.code, answer.reason, answer.message) == (code, error.reason, str(error))  # type: ignore[attr-defined]


async def test_a_bug_is_told_without_its_traceback(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await loaded(house)
    monkeypatch.setattr("smolorad.services.generation.dataclasses.replace", None)
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert (answer.code, answer.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_too_many_generations_are_refused_with_a_hint(short_path, backends: Backends, script: Script) -> None:  # type: ignore[no-untyped-def]
    house = await House(settings_of(short_path, max_generations=1), backends).start()
    await loaded(house)
    gate = asyncio.Event()
    script.enqueue("Hello", Wait(gate))
    call = house.generation.Generate(pb.GenerateRequest(prompt="hi"))
    await until(call, lambda message: message.text)
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert (answer.code, answer.reason, answer.retry_s) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 5)
    gate.set()
    await everything(call)
    assert len(await everything(house.generation.Generate(pb.GenerateRequest(prompt="hi")))) == 3
    await house.stop()


async def test_how_a_token_is_chosen_and_told_reaches_the_engine_and_comes_back(house: House, script: Script) -> None:
    await loaded(house)
    word = TokenLogprob(7, "Hel", b"Hel", -0.25, (TopLogprob(7, "Hel", b"Hel", -0.25), TopLogprob(8, "\ufffd", b"\xc3", -1.5)))
    script.enqueue(word, "Hello")
    sampling = pb.Sampling(presence_penalty=0.5, min_tokens=3, logit_bias={42: -100, 7: 1.5}, bad_words=["x, y"], top_h=0.5)
    form = pb.ResponseFormat(json_schema='{"type": "string"}')
    request = pb.GenerateRequest(prompt="hi", sampling=sampling, logprobs=True, top_logprobs=2, response_format=form)
    first, text, last = await everything(house.generation.Generate(request))
    assert [(one.token_id, one.token_bytes, one.logprob) for one in first.token_logprob.top_logprobs] == [
        (7, b"Hel", -0.25),
        (8, b"\xc3", -1.5),
    ]
    assert (first.token_logprob.token, text.text) == ("Hel", "Hello")
    effective = last.outcome.sampling
    assert (effective.presence_penalty, effective.frequency_penalty, effective.typical_p) == (0.5, 0.0, 1.0)
    assert (effective.min_tokens, dict(effective.logit_bias), list(effective.bad_words)) == (3, {42: -100, 7: 1.5}, ["x, y"])
    _, (spec, _) = script.calls[-1]  # type: ignore[misc]
    assert (spec.logprobs, spec.top_logprobs, spec.response_format) == (True, 2, ResponseFormat('{"type": "string"}'))


async def test_tokens_are_counted(house: House) -> None:
    await loaded(house)
    counted = await house.generation.CountTokens(pb.CountTokensRequest(prompt="one two three"))
    assert (counted.tokens, list(counted.token_ids)) == (3, [0, 1, 2])


async def test_tokens_are_decoded(house: House) -> None:
    await loaded(house)
    decoded = await house.generation.DecodeTokens(pb.DecodeTokensRequest(token_ids=[1, 0, 2]))
    assert decoded.text == "w1 w0 w2"
    decoded = await house.generation.DecodeTokens(pb.DecodeTokensRequest(token_ids=[1, 0, 2], skip_special_tokens=True))
    assert decoded.text == "w1 w2"
    answer = await refused(house.generation.DecodeTokens(pb.DecodeTokensRequest(token_ids=[0] * (2**20 + 1))))
    assert (answer.reason, answer.fields) == ("INVALID_REQUEST", ("token_ids",))


async def test_an_empty_prompt_is_called_empty(house: House) -> None:
    for call in (
        house.generation.Generate(pb.GenerateRequest(prompt="")),
        house.generation.CountTokens(pb.CountTokensRequest(prompt="")),
    ):
        assert "is empty; give some text" in (await refused(call)).message


def _by_schema(text: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="a", response_format=pb.ResponseFormat(json_schema=text))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(), "prompt"),
        (pb.GenerateRequest(prompt="a", messages=[pb.ChatMessage(role="user", content="b")]), "prompt"),
        (pb.GenerateRequest(messages=[pb.ChatMessage(content="b")]), "messages"),
        (pb.GenerateRequest(prompt="x" * (2**20 + 1)), "prompt"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(max_tokens=0)), "sampling.max_tokens"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(temperature=-1)), "sampling.temperature"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(temperature=0.001)), "sampling.temperature"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(temperature=float("nan"))), "sampling.temperature"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(top_p=0)), "sampling.top_p"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(top_k=-1)), "sampling.top_k"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(min_p=1.5)), "sampling.min_p"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(repetition_penalty=0)), "sampling.repetition_penalty"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(stop=[""])), "sampling.stop"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(stop=["x"] * 17)), "sampling.stop"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(seed=-1)), "sampling.seed"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(typical_p=0)), "sampling.typical_p"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(epsilon_cutoff=1)), "sampling.epsilon_cutoff"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(eta_cutoff=-0.1)), "sampling.eta_cutoff"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(top_h=0)), "sampling.top_h"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(presence_penalty=2.1)), "sampling.presence_penalty"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(frequency_penalty=float("nan"))), "sampling.frequency_penalty"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(no_repeat_ngram_size=-1)), "sampling.no_repeat_ngram_size"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(min_tokens=201)), "sampling.min_tokens"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(logit_bias={1: 101})), "sampling.logit_bias"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(logit_bias={1: float("nan")})), "sampling.logit_bias"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(logit_bias=dict.fromkeys(range(1025), 0))), "sampling.logit_bias"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(bad_words=[""])), "sampling.bad_words"),
        (pb.GenerateRequest(prompt="a", sampling=pb.Sampling(bad_words=["x"] * 257)), "sampling.bad_words"),
        (pb.GenerateRequest(prompt="a", top_logprobs=3), "top_logprobs"),
        (pb.GenerateRequest(prompt="a", logprobs=True, top_logprobs=21), "top_logprobs"),
        (pb.GenerateRequest(prompt="a", response_format=pb.ResponseFormat()), "response_format"),
        (pb.GenerateRequest(prompt="a", response_format=pb.ResponseFormat(regex="a", json_object=True)), "response_format"),
        (pb.GenerateRequest(prompt="a", response_format=pb.ResponseFormat(regex="a" * 65537)), "response_format.regex"),
        (_by_schema("{"), "response_format.json_schema"),
        (_by_schema("3"), "response_format.json_schema"),
        (_by_schema("[" * 60000), "response_format.json_schema"),
        (_by_schema('{"const": 9007199254740993}'), "response_format.json_schema"),
        (_by_schema(" " * 65537), "response_format.json_schema"),
        (pb.GenerateRequest(prompt="a", adapter="a@x"), "adapter"),
        (pb.GenerateRequest(prompt="a", keep_alive=Duration(seconds=2**62)), "keep_alive"),
    ],
)
async def test_a_wrong_field_is_named(house: House, request_: pb.GenerateRequest, field: str) -> None:
    answer = await refused(house.generation.Generate(request_))
    assert (answer.code, answer.reason, answer.fields) == (INVALID, "INVALID_REQUEST", (field,))


async def test_those_who_wait_for_a_model_too_long_are_sent_away(
    house: House, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolorad.residency.manager.WAIT_S", 0.01)
    gate = asyncio.Event()
    script.loads.append([Wait(gate)])
    loading = asyncio.create_task(loaded(house))
    async with asyncio.timeout(10):
        while (await house.system.GetStatus(system_pb2.GetStatusRequest())).engine_state != system_pb2.ENGINE_STATE_LOADING:
            pass
    answer = await refused(house.generation.Generate(pb.GenerateRequest(prompt="hi")))
    assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, EngineUnavailable.reason)
    gate.set()
    await loading


async def test_an_adapter_is_asked_while_it_is_trained(house: House, script: Script) -> None:
    await prepared(house)
    gate = asyncio.Event()
    script.trainings.append([TrainProgress(2, 10, loss=3.0), Wait(gate)])
    training = house.training.Train(training_pb2.TrainRequest(dataset="verses", adapter="support", model="starter"))
    job_id = (await until(training, lambda message: message.job_event.HasField("train"))).job_event.job_id

    async def ask(adapter: str) -> pb.GenerateOutcome:
        return (await everything(house.generation.Generate(pb.GenerateRequest(prompt="a", adapter=adapter))))[-1].outcome

    assert (await ask("support@latest")).adapter == "support"  # the engine itself adds the step
    assert (await ask("support@step-2")).adapter == "support"
    checkpoint = house.settings.places.job(job_id).checkpoints / "1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    await ask("support@step-1")
    asked = [details[1] for name, details in script.calls if name == "generate"]  # type: ignore[index]
    saved = AdapterFolder(f"support@step-1#{job_id}", "support@step-1", checkpoint)
    assert asked == [LiveAdapter("support", job_id), LiveAdapter("support", job_id, 2), saved]
    (house.settings.places.job(job_id).steps / "0").mkdir(parents=True)
    await ask("support@step-0")
    assert [details[1] for name, details in script.calls if name == "generate"][-1] == AdapterFolder(  # type: ignore[index]
        f"support@step-0#{job_id}", "support@step-0", house.settings.places.job(job_id).steps / "0"
    )
    (house.settings.places.job(job_id).steps / "0").rmdir()
    past = await refused(house.generation.Generate(pb.GenerateRequest(prompt="a", adapter="support@step-0")))
    assert (past.code, "there is support@step-1" in past.message) == (grpc.StatusCode.NOT_FOUND, True)
    await house.jobs.PauseJob(jobs_pb2.PauseJobRequest(id=job_id))
    await until(training, lambda message: message.job_event.state.state == jobs_pb2.JOB_STATE_PAUSED)
    assert (await ask("support@latest")).adapter == "support@step-1"
    gone = await refused(house.generation.Generate(pb.GenerateRequest(prompt="a", adapter="support@step-7")))
    assert (gone.code, "there is support@step-1" in gone.message) == (grpc.StatusCode.NOT_FOUND, True)
    await loaded(house, "owner/other")
    wrong = await refused(house.generation.Generate(pb.GenerateRequest(prompt="a", adapter="support@latest")))
    assert (wrong.code, wrong.reason) == (PRECONDITION, "WRONG_BASE")
    nobody = await refused(house.generation.Generate(pb.GenerateRequest(prompt="a", adapter="nosuch@latest")))
    assert (nobody.code, nobody.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.mark.parametrize("megabytes", [5, 20])
async def test_a_message_that_is_too_large_is_refused_with_a_reason(house: House, megabytes: int) -> None:
    prompt = "x" * (megabytes * 2**20)
    for call in (
        house.generation.Generate(pb.GenerateRequest(prompt=prompt)),
        house.generation.CountTokens(pb.CountTokensRequest(prompt=prompt)),
    ):
        failure = await refused(call)
        assert (failure.code, failure.reason) == (INVALID, "INVALID_REQUEST")
        assert "4,194,304" in failure.message
    assert (await house.system.GetStatus(system_pb2.GetStatusRequest())).pid
