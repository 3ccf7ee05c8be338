"""Loads that meet other loads, and requests that need a model."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from smolorad.domain import Adapter, Device
from smolorad.errors import BadState, Damaged, EngineUnavailable, ShuttingDown, UnsupportedModel
from smolorad.residency import Base, LoadRequest
from smolorad.residency.requests import LoadHistory
from smolorad.residency.resolver import OnProgress
from tests.unit.residency.conftest import Desk, X, Y, start, within


async def test_the_same_model_is_loaded_once_for_two_requests(desk: Desk) -> None:
    gate = desk.gated_load()
    first = start(desk.load(X))
    await gate.reached.wait()
    second = start(desk.load(X))
    gate.opened.set()
    assert (await first).name == (await second).name == X
    assert desk.loads == [X]


async def test_another_model_is_loaded_after_the_one_that_is_being_loaded(desk: Desk) -> None:
    gate = desk.gated_load()
    first = start(desk.load(X))
    await gate.reached.wait()
    second = start(desk.load(Y))
    gate.opened.set()
    assert ((await first).name, (await second).name) == (X, Y)
    assert (desk.loads, desk.model) == ([X, Y], Y)


async def test_a_load_that_waits_continues_when_its_client_has_gone(desk: Desk) -> None:
    gate = desk.gated_load()
    first = start(desk.load(X))
    await gate.reached.wait()
    waiting = start(desk.load(Y))
    await asyncio.sleep(0)  # it has started
    waiting.cancel()
    gate.opened.set()
    await first
    await desk.settled()
    assert desk.model == Y


async def test_a_failed_load_leaves_the_model_before_and_the_next_load_works(desk: Desk) -> None:
    await desk.load(X)
    desk.script.loads.append([UnsupportedModel("no")])
    with pytest.raises(UnsupportedModel):
        await desk.load(Y)
    assert desk.model == X
    assert (await desk.load(Y)).name == Y


async def test_two_generations_that_need_different_models(desk: Desk) -> None:
    """The second one does not take the first one's model away: it is refused, as it is once that model is loaded."""
    first, second = start(desk.generate(X)), start(desk.generate(Y))
    assert await first == (X, X)
    with pytest.raises(BadState, match=f"{X} is loaded, not {Y}"):
        await second
    assert (desk.loads, desk.model) == ([X], X)


async def test_two_generations_that_name_no_model_share_a_load(desk: Desk) -> None:
    await desk.load(X)
    await desk.residency.unload()
    assert await asyncio.gather(start(desk.generate()), start(desk.generate())) == [(X, X), (X, X)]
    assert desk.loads == [X, X]


async def test_a_training_takes_its_base_in_place_of_another_model(desk: Desk) -> None:
    await desk.load(X)
    async with desk.residency.lease(Y, training=True) as lease:
        assert lease.model.name == Y
        with pytest.raises(BadState, match="A training runs"):
            await desk.load(X)
        with pytest.raises(BadState, match="A training runs"):
            await desk.residency.unload()
    assert (await desk.load(X)).name == X


@pytest.mark.parametrize("reference", ["", Y])
async def test_a_generation_that_comes_during_a_load_gets_the_new_model_by_its_name(desk: Desk, reference: str) -> None:
    await desk.load(X)
    gate = desk.gated_load()
    loading = start(desk.load(Y))
    await gate.reached.wait()
    asked = start(desk.generate(reference))
    gate.opened.set()
    await loading
    assert await asked == (Y, Y)


async def test_a_generation_for_the_old_model_is_refused_once_the_new_one_is_loaded(desk: Desk) -> None:
    await desk.load(X)
    gate = desk.gated_load()
    loading = start(desk.load(Y))
    await gate.reached.wait()
    asked = start(desk.generate(X))
    gate.opened.set()
    await loading
    with pytest.raises(BadState, match=f"{Y} is loaded, not {X}"):
        await asked


async def test_a_training_that_begins_while_another_model_is_loaded_gets_its_own_base(desk: Desk) -> None:
    await desk.load(X)
    gate = desk.gated_load()
    loading = start(desk.load(Y))
    await gate.reached.wait()

    async def train() -> tuple[str, str]:
        async with desk.residency.lease(X, training=True) as lease:
            await lease.engine.check_adapter(Path("/nowhere"))
            return lease.model.name, desk.script.served[-1][1]

    asked = start(train())
    gate.opened.set()
    await loading
    assert await asked == (X, X)
    assert desk.loads == [X, Y, X]


async def test_a_generation_under_way_keeps_its_model_while_another_is_loaded(desk: Desk) -> None:
    await desk.load(X)
    gate = desk.gated_answer()
    asked = start(desk.generate(X, keep_alive=timedelta(hours=7)))
    await gate.reached.wait()
    await desk.load(Y, keep_alive=timedelta(hours=-1))
    gate.opened.set()
    assert (await asked)[0] == X
    assert desk.residency.unload_time() is None, "the keep-alive of a request for X is not Y's"


async def test_an_adapter_is_not_attached_to_a_base_that_is_being_replaced(desk: Desk, adapter: Adapter) -> None:
    await desk.load(X)
    gate = desk.gated_load()
    loading = start(desk.load(Y))
    await gate.reached.wait()
    await within(desk.residency.attach(adapter))
    gate.opened.set()
    await loading
    assert desk.engines[-1].adapters == {}
    await desk.residency.attach(adapter)  # the fake's models have one fingerprint
    assert list(desk.engines[-1].adapters) == [str(adapter.ref)]


async def test_adapters_are_detached_also_where_the_engine_dies_in_between(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.load(X)
    engine, detached = desk.engines[0], []

    async def detach(key: str) -> None:
        detached.append(key)
        desk.residency._engine_lost()

    monkeypatch.setattr(engine, "detach", detach)
    await desk.residency.detach(["a@1", "a@2"])
    assert detached == ["a@1", "a@2"]


async def test_a_model_is_loaded_that_is_unloaded_while_its_files_are_compared(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own folder is read to see whether it has changed; meanwhile the model's time may be over."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    own = str(tmp_path / "own")
    await desk.load(own)
    reading, read = asyncio.Event(), asyncio.Event()

    async def has_changed(base: object) -> bool:
        reading.set()
        await read.wait()
        return False

    monkeypatch.setattr(desk.resolver, "has_changed", has_changed)
    loading = start(desk.load(own, keep_alive=timedelta(hours=1)))
    await reading.wait()
    await within(desk.residency._unload())
    read.set()
    await loading
    assert await desk.generate() == (own, own)
    assert len(desk.engines) == 2


async def test_a_preload_does_not_replace_what_a_client_loads_first(desk: Desk) -> None:
    await LoadHistory(desk.library).set_loaded(LoadRequest(X))
    gate = desk.gated_load()
    loading = start(desk.load(Y))
    await gate.reached.wait()
    desk.residency.start_preload()
    gate.opened.set()
    await loading
    await desk.settled()
    assert (desk.loads, desk.model) == ([Y], Y)


async def test_an_engine_that_is_gone_when_its_load_ends_is_not_taken_for_a_loaded_one(desk: Desk) -> None:
    residency = desk.residency
    loading = residency._loads.start(LoadRequest(X), lambda progress: residency._supervisor.detach() and None)
    with pytest.raises(EngineUnavailable):
        await within(residency._loads.result(loading))
    assert desk.model == ""
    assert await desk.generate(X) == (X, X)


async def test_weights_that_are_not_the_published_ones_bring_the_old_model_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.load(X)
    find = desk.resolver.find

    async def found(reference: str, on_progress: OnProgress) -> Base:
        base = await find(reference, on_progress)
        return dataclasses.replace(base, fingerprint="0" * 64) if reference == Y else base

    monkeypatch.setattr(desk.resolver, "find", found)
    with pytest.raises(Damaged):
        await desk.load(Y)
    assert await within(desk.generate(X)) == (X, X)
    assert (desk.loads, len(desk.engines)) == ([X, Y, X], 2)


async def test_the_daemon_s_end_ends_a_load_and_those_who_wait_for_it(desk: Desk) -> None:
    gate = desk.gated_load()
    loading = start(desk.load(X))
    await gate.reached.wait()
    asked = start(desk.generate())
    await asyncio.sleep(0)
    await within(desk.residency.close(0.0))
    for waiting in (loading, asked):
        with pytest.raises(ShuttingDown):
            await waiting
    with pytest.raises(ShuttingDown):
        await desk.generate(X)


def test_a_request_is_read_as_it_was_written() -> None:
    for request in (LoadRequest(X), LoadRequest(X, device=Device.CPU, keep_alive=timedelta(seconds=-1))):
        assert LoadRequest.from_json(request.to_json()) == request
    old = '{"model": "a", "device": null, "dtype": "bfloat16", "keep_alive_s": null}'
    assert LoadRequest.from_json(old).dtype == "bfloat16"
