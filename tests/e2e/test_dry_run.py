"""`load --dry-run` through the daemon: what would fit, beside a loaded model and a training, and without a download."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.tiny import CORPUS, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("dry") / "model", hidden_size=64)


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    with daemon_process(SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu", OMP_NUM_THREADS="1") as daemon:
        yield daemon


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[smolora.Client]:
    with smolora.Client(daemon.socket) as client:
        yield client


def typed(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smolora.cli.main", *arguments]
    return subprocess.run(command, env=daemon.environ, capture_output=True, text=True, check=False)


def test_nothing_is_loaded_by_it_and_a_load_takes_what_it_says(
    daemon: DaemonProcess, client: smolora.Client, folder: Path
) -> None:
    shown = typed(daemon, "load", str(folder), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    facts = dict(line.split("  ", 1) for line in shown.stdout.splitlines())
    assert facts["fits"].strip() == "yes"
    assert {"model", "weights", "cache", "workspace", "together", "free", "--precision int4"} <= facts.keys()
    assert client.status().engine_state == "off"
    (line,) = typed(daemon, "load", str(folder), "--dry-run", "--json").stdout.splitlines()
    found = json.loads(line)["estimate"]
    loading = client.load(folder)
    resident = loading.result()
    assert loading.estimate is not None
    assert loading.estimate.weight_bytes == found["weight_bytes"] == resident.memory_bytes
    assert loading.estimate.choices[-1].weight_bytes == found["choices"][-1]["weight_bytes"]
    client.unload()
    told = typed(daemon, "load", str(folder))
    assert "\nneeds " in f"\n{told.stderr}"
    assert "workspace" in told.stderr


def test_it_disturbs_neither_the_loaded_model_nor_a_training(client: smolora.Client, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("\n".join(CORPUS * 8))
    client.prepare("rows", tmp_path / "rows.txt").result()
    client.load(folder).result()
    text = client.generate(CORPUS[0][:20], temperature=0, max_tokens=4).text()
    status = client.status()
    assert status.prefix_cache_bytes > 0
    assert status.cache_bytes == 0
    run = client.train("rows", "busy", max_steps=100_000, logging_steps=1)
    seen = 0
    for event in run:
        if isinstance(event.body, smolora.TrainProgress):
            seen += 1
            if seen == 1:
                found = client.estimate(folder, precision="int8")
                assert found.precision == "int8"
                assert client.job(run.job_id).state == "running"
            if seen == 3:
                break
    after = client.status()
    assert (after.resident, after.engine_restarts, after.running_job) == (status.resident, 0, run.job_id)
    assert client.generate(CORPUS[0][:20], temperature=0, max_tokens=4).text() == text
    client.cancel(run.job_id)


def test_what_is_not_here_is_said_and_not_fetched(daemon: DaemonProcess, client: smolora.Client) -> None:
    with pytest.raises(smolora.NotFound, match="a dry run downloads nothing; `smolora-client load owner/nosuch`"):
        client.estimate("owner/nosuch")
    refused = typed(daemon, "load", "/no/such/folder", "--dry-run", "--json")
    assert (refused.returncode, json.loads(refused.stdout)["error"]["reason"]) == (1, "NOT_FOUND")


@pytest.mark.model
@pytest.mark.long
@pytest.mark.parametrize("precision", ["exact", "int8", "int4"])
def test_the_engine_takes_what_was_estimated(
    daemon: DaemonProcess, client: smolora.Client, starter_model: Path, precision: str
) -> None:
    client.unload()
    found = client.estimate(starter_model, precision=precision)
    client.load(starter_model, precision=precision).result()
    prompt = "The lamp burns in the tower. " * 200
    outcome = client.generate(prompt, temperature=0, max_tokens=8)
    outcome.text()
    assert outcome.outcome is not None
    tokens = outcome.outcome.usage.prompt_tokens + outcome.outcome.usage.completion_tokens
    status = client.status()
    assert status.prefix_cache_bytes == pytest.approx(found.cache_token_bytes * tokens, rel=0.01)
    expected = found.weight_bytes + found.workspace_bytes + found.cache_token_bytes * tokens
    assert status.engine_rss_bytes == pytest.approx(expected, rel=0.15)
