"""Streams: leaving one early cancels it, and a job's view survives its connection."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

import smolora
from smolora._async import calls as aio_calls
from smolora._async import streams as aio_streams
from smolora._sync import calls as blocking_calls
from smolora._sync import streams as blocking_streams
from smolora._transport import threads
from smolora.v1 import generation_pb2, jobs_pb2, models_pb2, training_pb2
from tests.unit.client.fake_daemon import FakeDaemon, adapter, event, fail, job, silence


@pytest.fixture
async def aio(daemon: FakeDaemon) -> AsyncIterator[smolora.AsyncClient]:
    async with smolora.AsyncClient(daemon.socket) as client:
        yield client


@pytest.fixture
def endless(daemon: FakeDaemon) -> asyncio.Event:
    """Generate says two pieces and then nothing; the event is set when the caller has gone."""

    async def generate(request: Any, context: Any) -> Any:
        yield generation_pb2.GenerateResponse(text="Once ")
        yield generation_pb2.GenerateResponse(text="upon")
        await silence()

    daemon.script["Generate"] = generate
    return daemon.left


def answered(text: str) -> Any:
    """A generation of single characters with its outcome."""

    async def generate(request: Any, context: Any) -> Any:
        for piece in text:
            yield generation_pb2.GenerateResponse(text=piece)
        usage = generation_pb2.GenerateOutcome(finish_reason=1, sampling=request.sampling, token_ids=[1, 2])
        yield generation_pb2.GenerateResponse(outcome=usage)

    return generate


async def test_generation_streams_text_and_ends_with_its_outcome(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:
    daemon.script["Generate"] = answered("Grüße")
    stream = aio.generate("x", adapter="poet@1", max_new_tokens=5, temperature=0, stop="\n", seed=3, top_k=0)
    assert stream.outcome is None
    assert [piece async for piece in stream] == list("Grüße")
    assert await stream.text() == "Grüße"
    assert stream.outcome is not None
    assert (stream.outcome.finish_reason, stream.outcome.token_ids) == ("stop", (1, 2))
    sampling = daemon.asked("Generate")[0].sampling
    assert (sampling.max_tokens, sampling.temperature, list(sampling.stop), sampling.seed) == (5, 0.0, ["\n"], 3)
    assert sampling.HasField("top_k")
    assert not sampling.HasField("top_p")


async def test_generation_with_the_blocking_client(daemon: FakeDaemon) -> None:
    daemon.script["Generate"] = answered("abc")

    def talk() -> tuple[list[str], str, Any]:
        with smolora.Client(daemon.socket) as client:
            stream = client.generate(messages=[{"role": "user", "content": "hi"}])
            return list(stream), stream.text(), stream.outcome

    pieces, text, outcome = await asyncio.to_thread(talk)
    assert (pieces, text, outcome.finish_reason) == (["a", "b", "c"], "abc", "stop")


async def test_a_generation_has_one_prompt(aio: smolora.AsyncClient) -> None:
    with pytest.raises(smolora.InvalidRequest, match="exactly one of prompt and messages"):
        aio.generate()
    with pytest.raises(smolora.InvalidRequest, match="max_tokens and max_new_tokens are two names of one setting"):
        aio.generate("x", max_tokens=1, max_new_tokens=1)
    with pytest.raises(smolora.InvalidRequest, match="min_tokens and min_new_tokens are two names of one setting"):
        aio.generate("x", min_tokens=1, min_new_tokens=1)
    with pytest.raises(smolora.InvalidRequest, match="three forms of an answer; give one"):
        aio.generate("x", json_object=True, regex="a")


async def test_how_tokens_are_chosen_is_sent_by_name(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:
    daemon.script["Generate"] = answered("a")
    await aio.generate(
        "x",
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        typical_p=0.9,
        no_repeat_ngram_size=3,
        min_new_tokens=4,
        logit_bias={"42": -100, 7: 2},  # type: ignore[dict-item]  # OpenAI's clients write the ids as text
        bad_words=["one", "two, three"],
        top_h=None,
    ).text()
    sampling = daemon.asked("Generate")[0].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.typical_p) == (0.5, -0.5, 0.9)
    assert (sampling.no_repeat_ngram_size, sampling.min_tokens, dict(sampling.logit_bias)) == (3, 4, {42: -100.0, 7: 2.0})
    assert list(sampling.bad_words) == ["one", "two, three"]
    assert not sampling.HasField("top_h")
    for settings, says in (
        ({"temprature": 1}, "generate\\(\\) has no setting 'temprature'; did you mean 'temperature'"),
        ({"logit_bias": 3}, "logit_bias takes numbers by token id, not 3"),
        ({"logit_bias": {"a": 3}}, "logit_bias takes numbers by token id"),
        ({"top_k": 1.5}, "top_k takes a whole number, not 1.5"),
    ):
        with pytest.raises(TypeError, match=says):
            aio.generate("x", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        ({"json_schema": {"type": "null"}}, {"json_schema": '{"type": "null"}'}),
        ({"json_schema": '{"type":"null"}'}, {"json_schema": '{"type":"null"}'}),
        ({"json_object": True}, {"json_object": True}),
        ({"regex": "a|b"}, {"regex": "a|b"}),
    ],
)
async def test_the_form_of_an_answer_is_sent(
    daemon: FakeDaemon, aio: smolora.AsyncClient, form: Any, sent: dict[str, Any]
) -> None:
    daemon.script["Generate"] = answered("a")
    await aio.generate("x", **form).text()
    await aio.generate("x").text()
    formed, free = daemon.asked("Generate")
    assert formed.response_format == generation_pb2.ResponseFormat(**sent)
    assert not free.HasField("response_format")


async def test_log_probabilities_are_collected_beside_the_text(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:
    top = generation_pb2.TopLogprob(token_id=8, token="b", token_bytes=b"b", logprob=-2)

    async def generate(request: Any, context: Any) -> Any:
        for id, piece in ((7, "a"), (9, "")):
            said = generation_pb2.TokenLogprob(token_id=id, token=piece, token_bytes=b"a", logprob=-0.5, top_logprobs=[top])
            yield generation_pb2.GenerateResponse(token_logprob=said)
            if piece:
                yield generation_pb2.GenerateResponse(text=piece)
        yield generation_pb2.GenerateResponse(outcome=generation_pb2.GenerateOutcome(finish_reason=1))

    daemon.script["Generate"] = generate
    stream = aio.generate("x", logprobs=True, top_logprobs=1)
    seen = [(piece, len(stream.logprobs)) async for piece in stream]
    assert seen == [("a", 1)]
    likeliest = (smolora.TopLogprob(8, "b", b"b", -2.0),)
    assert stream.logprobs[0] == smolora.TokenLogprob(7, "a", b"a", -0.5, likeliest)
    assert [one.token_id for one in stream.logprobs] == [7, 9]
    request = daemon.asked("Generate")[0]
    assert (request.logprobs, request.top_logprobs) == (True, 1)


async def test_a_break_cancels_though_the_stream_is_still_held(aio: smolora.AsyncClient, endless: asyncio.Event) -> None:
    stream = aio.generate("x")
    async for _ in stream:
        break
    await endless.wait()
    assert stream.outcome is None
    assert await stream.text() == "Once "


async def test_a_break_cancels_with_the_blocking_client(daemon: FakeDaemon, endless: asyncio.Event) -> None:
    def talk() -> str:
        stream = client.generate("x")
        for _ in stream:
            break
        return stream.text()

    with smolora.Client(daemon.socket) as client:
        assert await asyncio.to_thread(talk) == "Once "
        await endless.wait()


async def test_an_error_in_the_loop_cancels(aio: smolora.AsyncClient, endless: asyncio.Event) -> None:
    async def read() -> None:
        async for _ in aio.generate("x"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await read()
    await endless.wait()


async def test_a_cancelled_task_cancels(aio: smolora.AsyncClient, endless: asyncio.Event) -> None:
    began = asyncio.Event()

    async def read() -> None:
        async for _ in aio.generate("x"):
            began.set()

    task = asyncio.create_task(read())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await endless.wait()


async def test_close_from_elsewhere_ends_the_loop(aio: smolora.AsyncClient, endless: asyncio.Event) -> None:
    stream = aio.generate("x")
    pieces = []
    async for piece in stream:
        pieces.append(piece)
        if len(pieces) == 2:
            asyncio.get_running_loop().call_soon(stream.close)
    assert pieces == ["Once ", "upon"]
    await endless.wait()


async def test_a_stream_that_is_dropped_unread_cancels(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:
    began = asyncio.Event()

    async def generate(request: Any, context: Any) -> Any:
        began.set()
        yield generation_pb2.GenerateResponse(text="Once")
        await silence()

    daemon.script["Generate"] = generate
    stream: Any = aio.generate("x")
    await began.wait()
    assert not daemon.left.is_set()
    del stream
    gc.collect()
    assert await daemon.left.wait()
    assert len(daemon.asked("Generate")) == 1

    began.clear()
    daemon.left.clear()
    with smolora.Client(daemon.socket) as client:
        stream = await asyncio.to_thread(client.generate, "x")
        await began.wait()
        del stream
        gc.collect()
        await daemon.left.wait()


async def test_a_generation_ends_at_the_time_its_caller_gave(aio: smolora.AsyncClient, endless: asyncio.Event) -> None:
    with pytest.raises(smolora.TimedOut):
        await aio.generate("x", timeout=0.3).text()


async def test_loading_streams_stages_and_ends_with_the_model(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:
    async def load(request: Any, context: Any) -> Any:
        yield models_pb2.LoadModelResponse(progress=models_pb2.LoadProgress(stage=models_pb2.LOAD_STAGE_READ, done_bytes=5))
        yield models_pb2.LoadModelResponse(resident=models_pb2.ResidentModel(name=request.model, device=1, dtype=2))

    daemon.script["LoadModel"] = load
    loading = aio.load("starter", dtype="bfloat16", keep_alive=-1)
    stages = [stage async for stage in loading]
    assert [(stage.stage, stage.done_bytes) for stage in stages] == [("read", 5)]
    assert (await loading.result()).name == "starter"
    request = daemon.asked("LoadModel")[0]
    assert (request.dtype, request.keep_alive.seconds) == (2, -1)
    await aio.load("./folder").result()
    assert daemon.asked("LoadModel")[1].model.startswith("/")


# Jobs


def watching(last: int, ended: Any = None, stall_after: int = 0) -> Any:
    """WatchJob with events 1 to `last` and heartbeats between; it stalls once, after number `stall_after`."""
    stalled: list[int] = []

    async def watch(request: Any, context: Any) -> Any:
        for n in range(request.after_sequence + 1, last + 1):
            yield jobs_pb2.WatchJobResponse(job_event=event(n))
            yield jobs_pb2.WatchJobResponse(job_event=event(n, heartbeat=jobs_pb2.Heartbeat()))
            if n == stall_after and not stalled:
                stalled.append(n)
                await silence()
        yield jobs_pb2.WatchJobResponse(job=ended or job(result="poet@1"))

    return watch


async def test_training_streams_events_and_ends_with_the_adapter(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:
    async def train(request: Any, context: Any) -> Any:
        yield training_pb2.TrainResponse(job_event=event(1))
        yield training_pb2.TrainResponse(job_event=event(2, train=jobs_pb2.TrainProgress(step=1, max_steps=2, loss=2.5)))
        yield training_pb2.TrainResponse(job_event=event(2, heartbeat=jobs_pb2.Heartbeat()))
        yield training_pb2.TrainResponse(adapter=adapter())

    daemon.script["Train"] = train
    run = await aio.train("verses", "poet")
    assert run.job_id == "j1"
    events = [one async for one in run]
    assert [(one.sequence, one.kind) for one in events] == [(1, "note"), (2, "train")]
    assert events[1].body == smolora.TrainProgress(1, 2, 0.0, 2.5, 0.0, 0.0, 0.0, 0.0, 0)
    assert (await run.result()).eval_loss_after == 2.0


async def test_a_note_that_is_not_stored_is_seen(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:
    """As on a full disk: it repeats the last number, and the next event has the number after that."""

    async def watch(request: Any, context: Any) -> Any:
        for number, text in ((1, "a"), (2, "b"), (2, "The disk is full."), (2, "The disk is full."), (3, "c")):
            yield jobs_pb2.WatchJobResponse(job_event=event(number, note=jobs_pb2.Note(text=text)))
        yield jobs_pb2.WatchJobResponse(job_event=event(3, train=jobs_pb2.TrainProgress(step=1)))  # was seen before
        yield jobs_pb2.WatchJobResponse(job=job(result="poet@1"))

    daemon.script["WatchJob"] = watch
    assert [one.sequence async for one in aio.watch("j1")] == [1, 2, 2, 3]


async def test_a_refused_training_raises_where_it_is_asked_for(daemon: FakeDaemon, client: Any) -> None:
    async def train(request: Any, context: Any) -> Any:
        await fail(context, "NOT_FOUND", "There is no dataset verses.")
        yield training_pb2.TrainResponse()

    daemon.script["Train"] = train
    with pytest.raises(smolora.NotFound, match="no dataset verses"):
        await client.train("verses", "poet")


async def test_leaving_a_job_ends_the_view_and_it_can_be_taken_up_again(daemon: FakeDaemon, aio: smolora.AsyncClient) -> None:

    async def train(request: Any, context: Any) -> Any:
        yield training_pb2.TrainResponse(job_event=event(1))
        yield training_pb2.TrainResponse(job_event=event(2))
        await silence()

    daemon.script |= {"Train": train, "WatchJob": watching(4)}
    daemon.script["GetAdapter"] = lambda *_: _async(models_pb2.GetAdapterResponse(adapter=adapter()))
    run = await aio.train("verses", "poet")
    async for one in run:
        if one.sequence == 2:
            break
    await daemon.left.wait()
    assert [one.sequence async for one in run] == [3, 4]
    assert (await run.result()).name == "poet"
    assert daemon.asked("GetAdapter")[0].name == "poet@1"
    assert daemon.asked("CancelJob") == []


async def test_a_job_that_is_dropped_unread_ends_the_view(daemon: FakeDaemon, client: Any) -> None:

    async def train(request: Any, context: Any) -> Any:
        yield training_pb2.TrainResponse(job_event=event(1))
        await silence()

    daemon.script["Train"] = train
    run = await client.train("verses", "poet")
    assert run.job_id == "j1"
    del run
    gc.collect()
    await daemon.left.wait()


async def _async(value: Any) -> Any:
    return value


async def _restart(daemon: FakeDaemon) -> None:
    await daemon.stop()
    await daemon.start()


async def test_a_watch_goes_on_after_a_restart_with_none_lost_and_none_repeated(
    daemon: FakeDaemon, aio: smolora.AsyncClient
) -> None:
    daemon.script["WatchJob"] = watching(5, stall_after=2)
    run = aio.watch("j1")
    seen = []
    async for one in run:
        seen.append(one.sequence)
        if seen == [1, 2]:
            await _restart(daemon)
    assert seen == [1, 2, 3, 4, 5]
    assert [request.after_sequence for request in daemon.asked("WatchJob")] == [0, 2]
    assert (await run.result()).state == "succeeded"


async def test_the_blocking_watch_goes_on_after_a_restart(daemon: FakeDaemon) -> None:
    daemon.script["WatchJob"] = watching(5, stall_after=2)
    loop = asyncio.get_running_loop()

    def follow() -> list[int]:
        seen = []
        with smolora.Client(daemon.socket) as client:
            for one in client.watch("j1", after=1):
                seen.append(one.sequence)
                if one.sequence == 2:
                    asyncio.run_coroutine_threadsafe(_restart(daemon), loop).result()
        return seen

    assert await asyncio.to_thread(follow) == [2, 3, 4, 5]
    assert [request.after_sequence for request in daemon.asked("WatchJob")] == [1, 2]


async def test_a_daemon_that_shuts_down_in_an_orderly_way_is_waited_for_too(
    daemon: FakeDaemon, aio: smolora.AsyncClient
) -> None:
    calls: list[int] = []

    async def watch(request: Any, context: Any) -> Any:
        calls.append(request.after_sequence)
        if len(calls) <= 2:
            yield jobs_pb2.WatchJobResponse(job_event=event(len(calls)))
            await fail(context, "SHUTTING_DOWN", "The daemon is shutting down.")
        yield jobs_pb2.WatchJobResponse(job_event=event(2))  # a daemon that repeats itself
        yield jobs_pb2.WatchJobResponse(job=job())

    daemon.script["WatchJob"] = watch
    assert [one.sequence async for one in aio.watch("j1")] == [1, 2]
    assert calls == [0, 1, 2]


async def test_a_daemon_that_does_not_come_back_is_not_waited_for_for_ever(
    daemon: FakeDaemon, aio: smolora.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio_streams, "RECONNECT_S", 0.0)
    daemon.script["WatchJob"] = watching(5, stall_after=1)
    run = aio.watch("j1")
    first = aiter(run)
    assert (await anext(first)).sequence == 1
    await daemon.stop()
    with pytest.raises(smolora.DaemonNotRunning):
        await anext(first)
    await daemon.start()


async def test_a_training_whose_creation_was_cut_off_is_asked_for_again_under_the_same_id(
    daemon: FakeDaemon, aio: smolora.AsyncClient
) -> None:
    import grpc

    async def train(request: Any, context: Any) -> Any:
        if len(daemon.asked("Train")) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
        yield training_pb2.TrainResponse(job_event=event(1))
        yield training_pb2.TrainResponse(adapter=adapter())

    daemon.script["Train"] = train
    assert (await (await aio.train("verses", "poet")).result()).name == "poet"
    first, second = daemon.asked("Train")
    assert first.request_id == second.request_id != ""


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (job(jobs_pb2.JOB_STATE_FAILED, error=jobs_pb2.JobError(reason="NOT_FINITE", message="Lower it.")), smolora.NotFinite),
        (job(jobs_pb2.JOB_STATE_CANCELLED), smolora.Cancelled),
    ],
)
async def test_a_job_that_failed_meanwhile_raises_its_error(
    daemon: FakeDaemon, aio: smolora.AsyncClient, ended: Any, expected: type[Exception]
) -> None:
    async def train(request: Any, context: Any) -> Any:
        yield training_pb2.TrainResponse(job_event=event(1))
        await silence()

    daemon.script |= {"Train": train, "WatchJob": watching(2, ended)}
    run = await aio.train("verses", "poet")
    await _restart(daemon)
    with pytest.raises(expected):
        await run.result()
    assert (await aio.watch("j1").result()).state == ended_state(ended)


def ended_state(ended: Any) -> str:
    """The state's short name."""
    return str(jobs_pb2.JobState.Name(ended.state).removeprefix("JOB_STATE_").lower())


async def test_a_job_stream_that_falls_silent_is_an_error(
    daemon: FakeDaemon, aio: smolora.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (aio_streams, aio_calls, blocking_streams, blocking_calls):
        monkeypatch.setattr(module, "JOB_IDLE_S", 0.2)

    async def watch(request: Any, context: Any) -> Any:
        yield jobs_pb2.WatchJobResponse(job_event=event(1))
        await silence()

    daemon.script["WatchJob"] = watch
    with pytest.raises(smolora.TimedOut, match="sent nothing for"):
        await aio.watch("j1").result()
    with smolora.Client(daemon.socket) as client, pytest.raises(smolora.TimedOut, match="sent nothing for"):
        await asyncio.to_thread(client.watch("j1").result)


def test_the_watchdog_counts_only_while_a_reader_waits() -> None:
    """The time between two reads is the caller's own: a watchdog that counted it would end good streams."""

    class Call:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    class Clock:
        """Wakes the watchdog three times; a reader waits, in vain, only before the last."""

        wakings = 0

        def wait(self, seconds: float) -> bool:
            self.wakings += 1
            if self.wakings == 3:
                watchdog._deadline = 0.0  # long ago
            return False

    call, clock = Call(), Clock()
    watchdog = threads._Watchdog(call, 3600.0)
    watchdog.stop()
    watchdog._stopped = clock  # type: ignore[assignment]
    watchdog._watch()
    assert (clock.wakings, call.cancelled, watchdog.barked) == (3, True, True)
