"""A client that shares nothing with ours: Node.js over the same socket."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Job

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the client, with what it needs installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not installed here")
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True)
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install grpc-js here: {done.stderr.strip().splitlines()[-1]}")
    return folder


def ask(folder: Path, job: Job, prompt: str, max_tokens: int, cancel_after: int) -> dict[str, object]:
    """Runs the client to its end."""
    command = ["node", "client.mjs", str(job.daemon.socket), str(ROOT / "proto"), prompt, str(max_tokens), str(cancel_after)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_node_generates_what_python_does(job: Job, node_client: Path) -> None:
    expected = job.client.generate("The lamp", max_tokens=12, temperature=0)
    text = expected.text()
    answer = ask(node_client, job, "The lamp", 12, 0)
    assert expected.outcome is not None
    assert answer["text"] == text
    outcome = answer["outcome"]
    assert isinstance(outcome, dict)
    assert outcome["finish_reason"] == "FINISH_REASON_LENGTH"
    assert outcome["token_ids"] == list(expected.outcome.token_ids)


def test_node_cancels_midway_and_the_engine_stops(job: Job, node_client: Path) -> None:
    answer = ask(node_client, job, "Once upon a time", 4000, 3)
    assert answer["cancelled"] is True
    assert answer["text"]
    # 4,000 tokens would take minutes. A status that says nobody is answered, at once, means that the engine stopped.
    deadline = time.monotonic() + 10
    while job.client.status().active_generations:
        assert time.monotonic() < deadline, "the engine goes on for a client that is gone"
