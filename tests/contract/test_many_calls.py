"""Many calls at once over one connection: what is too much is refused with a reason, and status and cancel get through."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import smolora
from smolora.v1 import jobs_pb2, system_pb2, training_pb2
from smolorad.domain import TrainProgress
from tests.contract.house import CALL_S, House, happened, loaded, prepared, until
from tests.fake_engine import Script, Wait

LIMIT = 64  # what `max_generations` is by default


@pytest.mark.parametrize("calls", [100, 1000])
async def test_one_client_has_as_many_generations_as_the_daemon_takes_and_the_others_are_refused(
    house: House, script: Script, calls: int
) -> None:
    await loaded(house)
    gate = asyncio.Event()
    for _ in range(LIMIT + 1):
        script.enqueue("Hello", Wait(gate))
    async with smolora.AsyncClient(house.settings.socket) as client, asyncio.timeout(3 * CALL_S):

        async def ask() -> str:
            try:
                return await client.generate("hi").text()
            except smolora.SmoloraError as error:
                return error.reason

        tasks = [asyncio.create_task(ask()) for _ in range(calls)]
        await happened(lambda: sum(task.done() for task in tasks) == calls - LIMIT)
        assert Counter(task.result() for task in tasks if task.done()) == {"QUEUE_FULL": calls - LIMIT}
        assert (await client.status()).active_generations == LIMIT
        next(task for task in tasks if not task.done()).cancel()
        await happened(lambda: len(script.cancelled) == 1)
        again = asyncio.create_task(ask())  # takes the place of the one that was cancelled
        gate.set()
        assert await again == "Hello"
        answers = Counter(await asyncio.gather(*tasks, return_exceptions=True))
    assert answers["QUEUE_FULL"] == calls - LIMIT
    assert answers["Hello"] == LIMIT - 1


async def test_one_client_with_threads(house: House, script: Script) -> None:
    await loaded(house)
    gate = asyncio.Event()
    for _ in range(LIMIT):
        script.enqueue("Hello", Wait(gate))
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(100) as pool, smolora.Client(house.settings.socket) as client:

        def ask() -> str:
            try:
                return client.generate("hi").text()
            except smolora.SmoloraError as error:
                return error.reason

        tasks = [loop.run_in_executor(pool, ask) for _ in range(100)]
        await happened(lambda: sum(task.done() for task in tasks) == 100 - LIMIT)
        gate.set()
        async with asyncio.timeout(CALL_S):
            assert Counter(await asyncio.gather(*tasks)) == {"Hello": LIMIT, "QUEUE_FULL": 100 - LIMIT}


async def test_status_and_cancel_get_through_beside_many_watchers(house: House, script: Script) -> None:
    await prepared(house)
    await loaded(house)
    gate = asyncio.Event()
    script.trainings.append([TrainProgress(step=1, max_steps=2), Wait(gate)])
    training = house.training.Train(training_pb2.TrainRequest(dataset="verses", adapter="a"))
    job_id = (await until(training, lambda message: message.job_event.HasField("train"))).job_event.job_id
    watchers = [house.jobs.WatchJob(jobs_pb2.WatchJobRequest(id=job_id)) for _ in range(300)]
    for watcher in watchers:
        await until(watcher, lambda message: message.job_event.HasField("train"))
    async with asyncio.timeout(CALL_S):
        assert (await house.system.GetStatus(system_pb2.GetStatusRequest())).running_job == job_id
        await house.jobs.CancelJob(jobs_pb2.CancelJobRequest(id=job_id))
    for watcher in watchers:
        await until(watcher, lambda message: message.HasField("job"))
