"""kill -9 at the engine, at the daemon, at both: a job keeps its id, goes on from its last checkpoint and ends the same."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.faults.process import ended

pytestmark = pytest.mark.timeout(300)

STEPS = 24
SETTINGS = {"max_steps": STEPS, "save_steps": 6, "logging_steps": 3, "learning_rate": 1e-2, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """One daemon for all tests, which kill it and start it again."""
    with daemon_process(SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu") as running:
        yield running


@pytest.fixture(scope="module")
def connected(daemon: DaemonProcess, tiny: Path, texts: Path) -> Iterator[smolora.Client]:
    """A client of it; `rows` is prepared."""
    with smolora.Client(daemon.socket) as client:
        client.load(tiny).result()
        client.prepare("rows", texts).result()
        yield client


@pytest.fixture
def client(connected: smolora.Client, tiny: Path) -> smolora.Client:
    """The same; the tiny model is loaded."""
    connected.load(tiny).result()
    return connected


@pytest.fixture(scope="module")
def undisturbed(connected: smolora.Client) -> smolora.Adapter:
    """An adapter that was trained in peace."""
    return connected.train("rows", "calm", **SETTINGS).result()


def weights(adapter: smolora.Adapter) -> str:
    """SHA-256 of an adapter's weights."""
    return hashlib.sha256((Path(adapter.path) / "adapter_model.safetensors").read_bytes()).hexdigest()


def train_through(
    client: smolora.Client, name: str, blow: Callable[[], None], at_step: int
) -> tuple[smolora.Adapter, list[int]]:
    """Trains, strikes once at the first checkpoint or report from `at_step` on, and watches to the end."""
    run = client.train("rows", name, **SETTINGS)
    struck = False
    sequences = []
    for event in run:
        sequences.append(event.sequence)
        if not struck and isinstance(event.body, smolora.Checkpoint | smolora.TrainProgress) and event.body.step >= at_step:
            struck = True
            blow()
    assert struck
    return run.result(), sequences


def kill_engine(client: smolora.Client) -> None:
    """SIGKILL for the engine alone."""
    os.kill(client.status().engine_pid, signal.SIGKILL)


def test_a_killed_engine_changes_nothing(client: smolora.Client, undisturbed: smolora.Adapter) -> None:
    restarts = client.status().engine_restarts
    struck, sequences = train_through(client, "no-engine", lambda: kill_engine(client), 9)
    assert sequences == list(range(1, len(sequences) + 1)), "an event was lost or came twice"
    assert weights(struck) == weights(undisturbed)
    assert struck.eval_loss_before == undisturbed.eval_loss_before
    job = client.job(struck.job_id)
    assert (job.state, job.attempts) == ("succeeded", 2)
    assert client.status().engine_restarts == restarts + 1
    assert client.generate("In the", adapter="no-engine", max_tokens=4, temperature=0).text()


def test_a_killed_daemon_changes_nothing(daemon: DaemonProcess, client: smolora.Client, undisturbed: smolora.Adapter) -> None:
    def blow() -> None:
        with ended(client.status().engine_pid):  # an engine whose daemon is gone ends by itself
            daemon.kill()
        daemon.start()
        assert client.adapters("no-daemon") == []
        assert [dataset.name for dataset in client.datasets()] == ["rows"]

    struck, sequences = train_through(client, "no-daemon", blow, 9)
    assert sequences == list(range(1, len(sequences) + 1)), "an event was lost or came twice"
    assert weights(struck) == weights(undisturbed)
    assert client.job(struck.job_id).attempts == 2


def test_sigterm_checkpoints_and_the_next_daemon_goes_on(
    daemon: DaemonProcess, client: smolora.Client, undisturbed: smolora.Adapter
) -> None:
    status = []

    def blow() -> None:
        status.append(daemon.stop())
        daemon.start()

    struck, sequences = train_through(client, "stopped", blow, 8)
    assert status == [0]
    assert sequences == list(range(1, len(sequences) + 1))
    assert weights(struck) == weights(undisturbed)


def test_paused_and_resumed_a_job_loses_no_step(client: smolora.Client, undisturbed: smolora.Adapter) -> None:
    run, steps = client.train("rows", "held", **SETTINGS), []
    for event in run:
        if isinstance(event.body, smolora.TrainProgress):
            steps.append(event.body.step)
            if steps == [1, 3]:
                client.pause(run.job_id)
        if isinstance(event.body, smolora.StateChange) and event.body.state is smolora.JobState.PAUSED:
            assert client.job(run.job_id).state is smolora.JobState.PAUSED
            client.resume(run.job_id)
    assert weights(run.result()) == weights(undisturbed)
    assert steps == [1, *range(3, STEPS + 1, 3)]


def test_a_model_is_resident_again_after_its_engine_died(client: smolora.Client) -> None:
    expected = client.generate("In the beginning", max_tokens=8, temperature=0).text()
    kill_engine(client)
    assert client.generate("In the beginning", max_tokens=8, temperature=0).text() == expected


def kill_while_reading(client: smolora.Client) -> None:
    """Kills the engine after the first piece of an answer, and reads on."""
    for number, _ in enumerate(client.generate("In the", max_tokens=400, temperature=0)):
        if number == 0:
            kill_engine(client)


def test_a_generation_fails_clearly_when_its_engine_dies(client: smolora.Client) -> None:
    with pytest.raises(smolora.EngineUnavailable, match="try again"):
        kill_while_reading(client)


@pytest.mark.long  # what is listed is also compared above
def test_a_job_that_was_killed_can_be_cancelled_and_resumed(daemon: DaemonProcess, client: smolora.Client) -> None:
    run = client.train("rows", "partial", **SETTINGS)
    for event in run:
        if isinstance(event.body, smolora.Checkpoint):
            break
    daemon.kill()
    daemon.start()
    assert client.adapters("partial") == []
    assert [dataset.name for dataset in client.datasets()] == ["rows"]
    client.cancel(run.job_id)
    ended = client.watch(run.job_id).result()
    assert ended.state == "cancelled"
    assert client.resume(run.job_id).state in ("queued", "running")
    assert client.watch(run.job_id, after=ended.last_sequence).result().state == "succeeded"
    assert [str(one.revision) for one in client.adapters("partial")] == ["1"]
