"""Engines and daemons that do not die but no longer answer, and engines nobody asks."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import daemon_process
from tests.faults.process import ended
from tests.tiny import tiny_model

STALL_S = 4.0
# Each place of it is tried with each pair of lengths: hours of a regular expression, in a library that no cancel reaches.
ENDLESS = ("a" * 2_000 + " ") * 200 + "b"


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer does not come back from ENDLESS."""
    folder = tiny_model(tmp_path_factory.mktemp("endless") / "model")
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": "a*a*b"}, "behavior": "Isolated", "invert": False}
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, described["pre_tokenizer"]]}
    file.write_text(json.dumps(described), encoding="utf-8")
    return folder


@pytest.fixture
def client(endless: Path) -> Iterator[smolora.Client]:
    """A client of a daemon that has that model loaded, and loses patience soon."""
    with (
        daemon_process(SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu", SMOLORA_STALL_S=f"{STALL_S:g}") as daemon,
        smolora.Client(daemon.socket) as connected,
    ):
        connected.load(endless).result()
        yield connected


def asked(client: smolora.Client, ends: list[smolora.SmoloraError], timeout: float | None = None) -> threading.Thread:
    """Somebody who asks for an answer to ENDLESS, and how that ended."""

    def ask() -> None:
        try:
            client.generate(ENDLESS, max_tokens=1, timeout=timeout).text()
        except smolora.SmoloraError as error:
            ends.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_call_that_was_left_and_does_not_come_back_costs_the_engine_its_life(client: smolora.Client) -> None:
    expected = client.generate("In the beginning", max_tokens=8, temperature=0).text()
    with ended(client.status().engine_pid):
        with pytest.raises(smolora.TimedOut):
            client.generate(ENDLESS, timeout=0.5).text()
        began = time.monotonic()
        assert (client.status().resident is not None, client.jobs()) == (True, [])
        assert time.monotonic() - began < STALL_S, "they waited for the engine"
        assert client.generate("In the beginning", max_tokens=8, temperature=0).text() == expected  # by the next engine
    assert client.status().engine_restarts == 1


@pytest.mark.long
def test_a_training_beside_such_a_call_resumes_from_its_checkpoint(client: smolora.Client, texts: Path) -> None:
    client.prepare("rows", texts).result()
    run = client.train("rows", "a", max_steps=30, save_steps=5, logging_steps=5)
    events = iter(run)
    while not isinstance(next(events).body, smolora.Checkpoint):
        pass
    with ended(client.status().engine_pid):
        with pytest.raises(smolora.TimedOut):
            client.generate(ENDLESS, timeout=0.5).text()
        began = time.monotonic()
        assert (client.status().running_job, client.job(run.job_id).state) == (run.job_id, "running")
        with pytest.raises(smolora.BadState, match="A training runs"):
            client.unload()
        assert time.monotonic() - began < STALL_S, "they waited for the engine"
    changes = [event.body.why for event in events if isinstance(event.body, smolora.StateChange)]
    assert any("did not come back from a call that had been cancelled and was killed" in why for why in changes)
    assert run.result().name == "a"
    assert client.job(run.job_id).attempts == 2


def test_a_call_that_somebody_waits_for_may_take_long_until_the_model_is_unloaded(client: smolora.Client) -> None:
    engine, ends = client.status().engine_pid, list[smolora.SmoloraError]()
    waiting = asked(client, ends)
    threading.Event().wait(2 * STALL_S)
    assert client.status().engine_pid == engine
    with ended(engine):
        client.unload()
    waiting.join(30)
    assert [error.reason for error in ends] == ["ENGINE_UNAVAILABLE"]
    assert client.status().engine_pid == 0
    assert client.generate("In the", max_tokens=1).text()


def test_a_load_of_another_model_does_not_wait_for_it(client: smolora.Client, tiny: Path) -> None:
    ends = list[smolora.SmoloraError]()
    waiting = asked(client, ends)
    while client.status().active_generations == 0:
        pass
    assert client.load(tiny).result().name == str(tiny)
    waiting.join(30)
    assert [error.reason for error in ends] == ["PROMPT_TOO_LONG"], "the call is made anew where the engine was lost"
    assert client.generate("In the", max_tokens=1).text()


@pytest.mark.long
def test_a_cancelled_job_that_does_not_come_back_ends(client: smolora.Client, tiny: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f'{{"text": "{ENDLESS}"}}\n{{"text": "a"}}\n', encoding="utf-8")
    client.prepare("rows", rows, model=tiny).result()
    for run in (client.prepare("others", rows), client.train("rows", "a", max_steps=2)):
        while client.job(run.job_id).state != "running":
            pass
        client.cancel(run.job_id)
        assert client.watch(run.job_id).result().state == "cancelled"
    assert client.generate("In the", max_tokens=1).text()


def test_a_stopped_engine_is_found_out_and_replaced(tiny: Path) -> None:
    with daemon_process(SMOLORA_DTYPE="float32", SMOLORA_STALL_S="5") as daemon, smolora.Client(daemon.socket) as client:
        client.load(tiny).result()
        expected = client.generate("In the beginning", max_tokens=8, temperature=0).text()
        engine = client.status().engine_pid
        with ended(engine):
            os.kill(engine, signal.SIGSTOP)
        assert client.generate("In the beginning", max_tokens=8, temperature=0).text() == expected
        assert client.status().engine_restarts == 1


def test_a_daemon_that_a_busy_machine_holds_up_is_waited_for() -> None:
    with daemon_process() as daemon, smolora.Client(daemon.socket) as client:
        os.kill(daemon.pid, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (daemon.pid, signal.SIGCONT)).start()
        assert client.status().engine_pid == 0


def test_an_idle_engine_ends_and_its_memory_with_it(tiny: Path) -> None:
    with daemon_process(SMOLORA_DTYPE="float32") as daemon, smolora.Client(daemon.socket) as client:
        client.load(tiny, keep_alive=3600).result()
        expected = client.generate("In the beginning", max_tokens=8, temperature=0).text()
        with ended(client.status().engine_pid):
            client.load(tiny, keep_alive=0.2).result()
        status = client.status()
        assert (status.resident, status.engine_pid) == (None, 0)
        assert client.generate("In the beginning", max_tokens=8, temperature=0).text() == expected
