"""An engine that dies: idle, while it loads or answers, while it is ended, and while it is brought back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from smolorad.children.engine import Engine
from smolorad.errors import EngineUnavailable, OutOfMemory
from smolorad.residency import EngineState, LoadRequest, recovery
from tests.fake_engine import Death, FakeEngine
from tests.unit.residency.conftest import Desk, X, Y, start, within


async def test_an_idle_engine_that_dies_comes_back_with_its_model(desk: Desk) -> None:
    await desk.load(X)
    desk.engines[0].die()
    await desk.engine_lost()
    assert desk.residency.state is EngineState.RESTARTING
    assert await desk.generate() == (X, X)
    assert (desk.residency.restarts, desk.residency.state) == (1, EngineState.READY)
    assert desk.residency.unload_time() is not None


async def test_an_engine_that_dies_in_a_load_fails_it_and_the_old_model_comes_back(desk: Desk) -> None:
    await desk.load(X)
    desk.script.loads.append([Death()])
    with pytest.raises(EngineUnavailable):
        await desk.load(Y)
    assert await within(desk.generate()) == (X, X)
    assert desk.loads == [X, Y, X]


async def test_an_engine_that_dies_in_the_first_load_fails_it(desk: Desk) -> None:
    desk.script.loads.append([Death()])
    with pytest.raises(EngineUnavailable):
        await desk.load(X)
    assert (desk.residency.state, desk.model) == (EngineState.OFF, "")
    assert (await desk.load(X)).name == X


async def test_a_request_whose_engine_dies_meets_the_next_one_when_it_tries_again(desk: Desk) -> None:
    await desk.load(X)
    desk.script.enqueue(Death())
    with pytest.raises(EngineUnavailable):
        await desk.generate()
    assert await within(desk.generate()) == (X, X)
    assert len(desk.engines) == 2


@pytest.mark.parametrize("moment", ["idle", "load", "request"])
async def test_each_death_is_logged_once_with_its_status(desk: Desk, moment: str, caplog: pytest.LogCaptureFixture) -> None:
    await desk.load(X)
    if moment == "idle":
        desk.engines[0].die()
        await desk.engine_lost()
    elif moment == "load":
        desk.script.loads.append([Death()])
        with pytest.raises(EngineUnavailable):
            await desk.load(Y)
    else:
        desk.script.enqueue(Death())
        with pytest.raises(EngineUnavailable):
            await desk.generate()
    assert await within(desk.generate()) == (X, X)
    died = [vars(entry)["smolorad_fields"] for entry in caplog.records if entry.getMessage() == "engine died"]
    assert died == [{"pid": desk.engines[0].pid, "status": await desk.engines[0].wait()}]


async def test_a_death_is_logged_though_its_request_goes_before_the_process_has_ended(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.load(X)
    engine, killed = desk.engines[0], asyncio.Event()

    async def kill(why: str = "") -> None:
        killed.set()
        await engine.wait()

    async def meet_the_end() -> None:
        async with desk.residency.lease():
            raise EngineUnavailable("The engine closed its connection; try again.")

    monkeypatch.setattr(engine, "kill", kill)
    request = start(meet_the_end())
    await within(killed.wait())
    request.cancel()
    await asyncio.wait({request})
    engine.die(-11)
    await within(desk.generate())
    assert [vars(entry)["smolorad_fields"]["status"] for entry in caplog.records if entry.getMessage() == "engine died"] == [
        -11
    ]


async def test_an_engine_that_is_ended_is_not_said_to_have_died(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    await desk.load(X)
    await desk.residency.unload()
    await asyncio.sleep(0)
    assert "engine died" not in caplog.messages


async def test_an_engine_that_dies_while_it_is_ended_is_not_brought_back(desk: Desk) -> None:
    await desk.load(X)
    drain = desk.gated_drain()
    unloading = start(desk.residency.unload())
    await drain.reached.wait()
    desk.engines[0].die()
    with pytest.raises(EngineUnavailable):  # the fake's own way to end a wait
        await unloading
    await desk.settled()
    assert (desk.residency.state, desk.residency.restarts, len(desk.engines)) == (EngineState.OFF, 0, 1)


async def test_an_engine_that_dies_while_its_idle_model_is_unloaded_stays_away(desk: Desk) -> None:
    await desk.load(X)
    desk.script.drains.append([Death()])
    async with desk.residency.lease(keep_alive=timedelta(0)):
        pass
    await within(desk.engines[0].wait())
    await desk.settled()
    assert (desk.residency.state, len(desk.engines)) == (EngineState.OFF, 1)


async def test_an_engine_that_dies_again_while_it_is_brought_back(desk: Desk) -> None:
    await desk.load(X)
    desk.script.loads += [[Death()], [Death()]]
    desk.engines[0].die()
    await desk.engine_lost()
    assert await within(desk.generate()) == (X, X)
    assert len(desk.engines) == 4


async def test_it_is_not_tried_for_ever_and_a_request_begins_anew(desk: Desk) -> None:
    await desk.load(X)
    desk.script.loads += [[Death()] for _ in recovery.BACKOFF_S]
    desk.engines[0].die()
    await desk.engine_lost()
    await desk.settled()
    assert (desk.residency.state, len(desk.engines)) == (EngineState.OFF, 1 + len(recovery.BACKOFF_S))
    assert await within(desk.generate()) == (X, X)


async def test_a_model_that_cannot_be_loaded_again_is_not_tried_again(desk: Desk) -> None:
    await desk.load(X)
    desk.script.loads.append([OutOfMemory("no")])
    desk.engines[0].die()
    await desk.engine_lost()
    await desk.settled()
    assert (desk.residency.state, len(desk.engines)) == (EngineState.OFF, 2)


async def test_a_system_that_starts_no_process_for_a_moment_is_tried_again(desk: Desk) -> None:
    await desk.load(X)
    supervisor = desk.residency._supervisor
    factory, refusals = supervisor._factory, [OSError(11, "Resource temporarily unavailable")] * 2

    async def start_engine() -> Engine:
        if refusals:
            raise refusals.pop()
        return await factory()

    supervisor._factory = start_engine
    desk.engines[0].die()
    await desk.engine_lost()
    assert await within(desk.generate()) == (X, X)


async def test_an_unload_ends_the_recovery(desk: Desk) -> None:
    await desk.load(X)
    gate = desk.gated_load()
    desk.engines[0].die()
    await within(gate.reached.wait())
    assert desk.residency.state is EngineState.RESTARTING
    assert await within(desk.residency.unload()) == ""
    assert (desk.residency.state, desk.residency.engine) == (EngineState.OFF, None)
    assert await within(desk.generate()) == (X, X)


async def test_an_unload_that_comes_before_the_recovery_has_begun(desk: Desk) -> None:
    """A task that is cancelled before its first step runs none of its own code."""
    await desk.load(X)
    desk.residency._engine_lost()
    desk.residency._recovery.cancel()
    await asyncio.sleep(0)
    assert desk.residency.state is EngineState.OFF
    assert await within(desk.generate()) == (X, X)


async def test_a_load_that_waits_for_the_recovery_takes_the_model_s_place(desk: Desk) -> None:
    await desk.load(X)
    gate = desk.gated_load()
    desk.engines[0].die()
    await within(gate.reached.wait())
    loading = start(desk.load(Y))
    gate.opened.set()
    assert (await loading).name == Y
    await desk.settled()
    assert (desk.model, desk.loads) == (Y, [X, X, Y])


async def test_the_newest_model_is_brought_back_where_two_engines_die_in_turn(desk: Desk) -> None:
    """The recovery of X waits while Y is loaded on a new engine, which then dies too."""
    await desk.load(X)
    residency = desk.residency
    await residency._changing.acquire()
    desk.engines[0].die()
    await desk.engine_lost()  # its recovery waits
    engine = await residency._supervisor.started()
    loader = residency._loader
    base = await desk.resolver.find(Y, lambda progress: None)
    await loader.load(base, LoadRequest(Y), lambda progress: None)
    assert isinstance(engine, FakeEngine)
    engine.die()
    await desk.engine_lost()
    residency._changing.release()
    assert await within(desk.generate()) == (Y, Y)


async def test_requests_wait_for_the_engine_that_dies_a_second_time(desk: Desk) -> None:
    await desk.load(X)
    gate = desk.gated_load()
    desk.engines[0].die()
    await within(gate.reached.wait())
    asked = [start(desk.generate()) for _ in range(3)]
    await asyncio.sleep(0)
    desk.engines[1].die()
    assert [await one for one in asked] == [(X, X)] * 3
    assert len(desk.engines) == 3


async def test_a_lost_engine_is_not_brought_back_once_the_daemon_ends(desk: Desk) -> None:
    await desk.load(X)
    await within(desk.residency.close(0.0))
    desk.residency._engine_lost()
    assert desk.residency.state is EngineState.OFF
