"""Unloads that meet loads, requests and other unloads."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from smolorad.children.engine import Pong
from smolorad.errors import BadState, Cancelled
from smolorad.residency import EngineState, LoadRequest, manager
from smolorad.residency.requests import LoadHistory
from tests.fake_engine import FakeEngine
from tests.unit.residency.conftest import Desk, X, Y, start, within

NOW = timedelta(0)


async def remembered(desk: Desk) -> LoadRequest | None:
    """What the daemon's next start loads."""
    return await LoadHistory(desk.library).loaded()


async def test_an_unload_waits_for_the_generation_under_way(desk: Desk) -> None:
    await desk.load(X)
    gate = desk.gated_answer()
    asked = start(desk.generate())
    await gate.reached.wait()
    unloading = start(desk.residency.unload())
    await asyncio.sleep(0)
    gate.opened.set()
    assert await asked == (X, X)
    assert await unloading == X
    assert desk.residency.state is EngineState.OFF


async def test_an_unload_gives_up_on_a_generation_that_takes_long(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "UNLOAD_WAIT_S", 0.0)
    await desk.load(X)
    gate = desk.gated_answer()
    asked = start(desk.generate())
    await gate.reached.wait()
    with pytest.raises(BadState, match="Generations are still under way"):
        await desk.residency.unload()
    gate.opened.set()
    assert await asked == (X, X)


async def test_an_unload_does_not_wait_for_an_engine_that_is_stuck(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ping(self: FakeEngine) -> Pong:
        return Pong(stuck_s=1.0)

    await desk.load(X)
    gate = desk.gated_answer()
    asked = start(desk.generate())
    await gate.reached.wait()
    monkeypatch.setattr(FakeEngine, "ping", ping)
    assert await within(desk.residency.unload()) == X
    await asyncio.wait({asked})
    assert asked.exception() is not None


async def test_a_request_that_comes_while_an_unload_waits_keeps_the_model(desk: Desk) -> None:
    """It comes after the last generation has ended, and before the unload begins."""
    await desk.load(X)
    first, second = desk.gated_answer(), desk.gated_answer()
    asked = start(desk.generate())
    await first.reached.wait()
    unloading = start(desk.residency.unload())
    async with asyncio.timeout(10):
        while not desk.residency._leases.idle._waiters:  # type: ignore[attr-defined]  # noqa: ASYNC110, no event says so
            await asyncio.sleep(0)
    async with desk.residency._changing:  # the unload has to wait for its turn
        first.opened.set()
        assert await asked == (X, X)
    async with desk.residency.lease() as lease:
        await asyncio.sleep(0)
        assert lease.engine is desk.residency.engine
    second.opened.set()
    assert await unloading == X


async def test_an_unload_cancels_the_load_under_way_and_the_one_that_waits(desk: Desk) -> None:
    gate = desk.gated_load()
    loading = start(desk.load(X))
    await gate.reached.wait()
    waiting = start(desk.load(Y))
    await asyncio.sleep(0)
    assert await within(desk.residency.unload()) == ""
    for load in (loading, waiting):
        with pytest.raises(Cancelled, match="was unloaded"):
            await load
    assert (desk.residency.state, desk.loads) == (EngineState.OFF, [X])
    assert (await desk.load(Y)).name == Y


async def test_an_unload_during_a_load_lets_the_generation_under_way_end(desk: Desk) -> None:
    await desk.load(X)
    answer, load = desk.gated_answer(), desk.gated_load()
    asked = start(desk.generate())
    await answer.reached.wait()
    loading = start(desk.load(Y))
    await load.reached.wait()
    unloading = start(desk.residency.unload())
    with pytest.raises(Cancelled):
        await loading
    for _ in range(3):
        await remembered(desk)  # the database has time to note an unload, if there is one
    assert desk.residency.engine is desk.engines[0]
    answer.opened.set()
    assert await asked == (X, X)
    assert await unloading == X


async def test_a_load_during_an_unload_gets_an_engine_of_its_own_and_is_remembered(desk: Desk) -> None:
    """The engine that ends takes its time; the new one is watched, and the next start loads its model."""
    gate, drain = desk.gated_load(), desk.gated_drain()
    loading = start(desk.load(X))
    await gate.reached.wait()
    unloading = start(desk.residency.unload())
    await drain.reached.wait()
    with pytest.raises(Cancelled):
        await loading
    assert (await within(desk.load(Y))).name == Y
    drain.opened.set()
    assert await unloading == ""
    assert desk.model == Y
    assert (kept := await remembered(desk)) is not None
    assert kept.model == Y
    desk.engines[-1].die()  # its watch sees this, although another engine has ended since it started
    await desk.engine_lost()
    assert await within(desk.generate()) == (Y, Y)
    assert desk.residency.restarts == 1


async def test_two_unloads_at_once(desk: Desk) -> None:
    await desk.load(X)
    drain = desk.gated_drain()
    first = start(desk.residency.unload())
    await drain.reached.wait()
    second = start(desk.residency.unload())
    drain.opened.set()
    assert (await first, await second) == (X, "")
    assert await remembered(desk) is None


async def test_a_request_that_comes_while_the_engine_ends_loads_the_model_again(desk: Desk) -> None:
    await desk.load(X)
    drain = desk.gated_drain()
    unloading = start(desk.residency.unload())
    await drain.reached.wait()
    asked = start(desk.generate())
    drain.opened.set()
    assert await unloading == X
    assert await asked == (X, X)
    assert len(desk.engines) == 2


async def test_an_idle_model_is_unloaded(desk: Desk) -> None:
    await desk.load(X, keep_alive=NOW)
    assert await within(desk.engines[0].wait()) == 0
    await desk.settled()
    assert (desk.model, desk.residency.state) == ("", EngineState.OFF)


async def test_a_request_that_comes_as_the_keep_alive_expires_keeps_the_model(desk: Desk) -> None:
    await desk.load(X)
    async with desk.residency.lease(keep_alive=NOW):
        pass
    desk.residency._expired()  # the timer, before its task has run
    async with desk.residency.lease(keep_alive=timedelta(hours=1)) as lease:
        await desk.settled()
        assert lease.engine is desk.residency.engine
    await desk.settled()
    assert desk.model == X


async def test_a_load_that_comes_as_the_keep_alive_expires_keeps_the_model(desk: Desk) -> None:
    await desk.load(X, keep_alive=timedelta(hours=1))
    desk.residency._expired()
    await desk.load(X)
    await desk.settled()
    assert (desk.model, len(desk.engines)) == (X, 1)


async def test_a_request_that_comes_while_an_idle_model_is_unloaded_loads_it_again(desk: Desk) -> None:
    await desk.load(X)
    drain = desk.gated_drain()
    async with desk.residency.lease(keep_alive=NOW):
        pass
    await within(drain.reached.wait())
    asked = start(desk.generate(keep_alive=timedelta(hours=1)))
    drain.opened.set()
    assert await asked == (X, X)
    assert len(desk.engines) == 2
