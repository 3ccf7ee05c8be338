"""The whole job as somebody types it: `smolora-client` alone, on a tiny model, with the engine killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import DaemonProcess, daemon_process
from tests.tiny import CORPUS, tiny_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

STEPS = 300  # some seconds: the engine has to be killed before the end
SETTINGS = ("--max-steps", str(STEPS), "--save-steps", "50", "--logging-steps", "10", "--learning-rate", "5e-3")
GREEDY = ("--temperature", "0", "--max-new-tokens", "8")


class Hand:
    """Types commands to one daemon; each answers with JSON, one object a line."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._environ = daemon.environ

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command whose lines are read as they come."""
        command = [sys.executable, "-m", "smolora.cli.main", "--json", *arguments]
        return subprocess.Popen(command, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def lines(self, *arguments: str) -> list[Any]:
        """All that a command writes; it must succeed."""
        with self.start(*arguments) as process:
            out, _ = process.communicate()
        assert process.returncode == 0, out[-2000:]
        return [json.loads(line) for line in out.splitlines()]

    def last(self, *arguments: str) -> Any:
        """A command's result."""
        return self.lines(*arguments)[-1]

    def answer(self, *arguments: str) -> str:
        """A greedy continuation."""
        return str(self.last("generate", CORPUS[0][:20], "--no-stream", *GREEDY, *arguments)["text"])


@pytest.fixture
def hand() -> Iterator[Hand]:
    with daemon_process(SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu") as daemon:
        yield Hand(daemon)


def test_the_whole_job_by_hand(hand: Hand, tmp_path: Path) -> None:
    folder, rows = tiny_model(tmp_path / "model"), tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{i}: {CORPUS[i % len(CORPUS)]}"}) + "\n" for i in range(120)), "utf-8")

    assert hand.last("import", str(folder), "--name", "tiny")["model"]["name"] == "tiny"
    assert hand.last("load", "tiny")["resident"]["name"] == "tiny"
    assert hand.last("prepare", str(rows), "--name", "rows")["dataset"]["report"]["rows_kept"] == 120
    base = hand.answer()

    job = hand.last("train", "--dataset", "rows", "--adapter", "poet", "--detach", *SETTINGS)["job"]["id"]
    with hand.start("jobs", "watch", job) as watch:
        assert watch.stdout is not None
        events = (json.loads(line) for line in watch.stdout)
        first = next(one["job_event"]["train"] for one in events if "train" in one.get("job_event", {}))
        assert hand.answer("--adapter", "poet@latest")
        engine = hand.last("status")["engine_pid"]
        os.kill(engine, signal.SIGKILL)
        seen = list(events)
    assert watch.returncode == 0
    assert first["step"] < STEPS
    ended = seen[-1]["job"]
    assert (ended["state"], ended["result"], ended["attempts"]) == ("succeeded", "poet@1", 2)
    status = hand.last("status")
    assert (status["engine_pid"] != engine, status["engine_restarts"]) == (True, 1)

    tuned = hand.answer("--adapter", "poet")
    assert tuned != base
    assert hand.answer() == base
    assert hand.last("merge", "poet", "--name", "poet-merged")["model"]["name"] == "poet-merged"
    hand.last("load", "poet-merged")
    assert hand.answer() == tuned
