"""Kills the engine or the daemon at random moments of trainings until enough kills are done: `python -m tests.faults.kills`.

Every job must end with the adapter of an undisturbed run, and its watcher must see every event once. Takes about ten seconds a
kill; the tests proper have the same with a few kills in `test_kill.py` and `unit/engine/train/test_train_kills.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.faults.process import ended
from tests.faults.test_kill import weights
from tests.tiny import tiny_model

SETTINGS = {"max_steps": 30, "save_steps": 1, "logging_steps": 2, "learning_rate": 1e-2, "gradient_accumulation_steps": 2}
ROWS = [f"row {number} of the text that is trained on, with some words more" for number in range(60)]


def kill(daemon: DaemonProcess, client: smolora.Client, what: str) -> None:
    """SIGKILL; the daemon is started again, the engine comes back by itself."""
    engine = client.status().engine_pid
    if what == "engine" and engine:
        with contextlib.suppress(ProcessLookupError):  # it has not come back yet from the kill before
            os.kill(engine, signal.SIGKILL)
    elif what == "daemon":
        with ended(engine) if engine else contextlib.nullcontext():
            daemon.kill()
        daemon.start()


def one_job(daemon: DaemonProcess, client: smolora.Client, name: str, trainer: str, rng: random.Random, kills: int) -> str:
    """Trains under so many kills; the digest of the adapter."""
    run = client.train("rows", name, trainer=trainer, **SETTINGS)
    steps = sorted(rng.sample(range(1, SETTINGS["max_steps"]), kills))
    sequences = []
    for event in run:
        sequences.append(event.sequence)
        if steps and isinstance(event.body, smolora.Checkpoint) and event.body.step >= steps[0]:
            steps.pop(0)
            time.sleep(rng.uniform(0, 0.1))  # some kills meet the next step, some its checkpoint
            kill(daemon, client, rng.choice(("engine", "engine", "daemon")))
    assert sequences == list(range(1, len(sequences) + 1)), f"{name}: an event was lost or came twice"
    return weights(run.result())


def main() -> None:
    """Prints a line a job; ends with status 1 at the first that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder, daemon_process(SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu") as daemon:
        model = tiny_model(Path(folder, "model"))
        text = Path(folder, "rows.txt")
        text.write_text("\n".join(ROWS))
        with smolora.Client(daemon.socket, timeout=30.0) as client:
            client.load(model).result()
            client.prepare("rows", text).result()
            calm = {one: weights(client.train("rows", one, trainer=one, **SETTINGS).result()) for one in ("fast", "plain")}
            done = 0
            while done < options.kills:
                trainer, kills = rng.choice(("fast", "plain")), min(5, options.kills - done)
                digest = one_job(daemon, client, f"job{done}", trainer, rng, kills)
                done += kills
                print(f"{done} kills, {trainer}: {'same' if digest == calm[trainer] else 'DIFFERENT'}", flush=True)
                if digest != calm[trainer]:
                    sys.exit(1)


if __name__ == "__main__":
    main()
