"""One real daemon with the starter model in float32, shared by the tests that only ask it things."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import DaemonProcess, daemon_process

LIGHTHOUSE = Path(__file__).parents[2] / "examples" / "data" / "lighthouse"


@dataclass(frozen=True)
class Job:
    """What the main job left: the adapter `keeper`, and the model `keeper-merged`."""

    daemon: DaemonProcess
    client: smolora.Client
    dataset: smolora.Dataset
    adapter: smolora.Adapter
    merged: smolora.Model
    events: list[smolora.JobEvent]
    while_training: list[str]


@pytest.fixture(scope="session")
def job(starter_model: Path) -> Iterator[Job]:
    """The main job, once: load, prepare, train while the model answers, merge."""
    # On two threads, as a user's has several.
    with daemon_process(SMOLORA_KEEP_ALIVE="-1", OMP_NUM_THREADS="2") as daemon, smolora.Client(daemon.socket) as client:
        client.load("starter", dtype="float32").result()
        dataset = client.prepare("lighthouse", LIGHTHOUSE, validation=0.04).result()
        few = {"max_steps": 6, "gradient_accumulation_steps": 2, "logging_steps": 1, "eval_rows": 8}
        run = client.train("lighthouse", "keeper", learning_rate=3e-3, **few)
        events, answers = [], []
        for event in run:
            events.append(event)
            if isinstance(event.body, smolora.TrainProgress) and event.body.step == 2:
                answers.append(client.generate("The lamp", max_tokens=8, temperature=0).text())
        adapter = run.result()
        merged = client.merge("keeper", "keeper-merged").result()
        yield Job(daemon, client, dataset, adapter, merged, events, answers)
