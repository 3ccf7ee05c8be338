"""Engines and daemons that do not die but no longer answer, and engines nobody asks."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import smolora
from tests.daemon_process import daemon_process
from tests.faults.process import ended


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
