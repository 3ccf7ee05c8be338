"""A process that trains and is killed, each time in a fork of its own: `python -m tests.unit.engine.train.train_runner`.

It reads lines of JSON: a job and a failpoint. The fork writes its process id, one line for each event, and `failpoint` where it
reaches that point; there it waits to be killed. Then comes `ended` with its exit status. The points are set here, by replacing
a function of a library or of ours: the product knows nothing of them. Forks, so that all runs import torch once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from smolorad import publish
from smolorad.engine.train import run
from smolorad.engine.train.fast.trainer import FastTrainer
from smolorad.engine.train.trl_trainers import LoraTrainer
from tests.unit.engine.train.train_kit import Job, RecordingHost, read_base


def _stop_here() -> None:
    print("failpoint", flush=True)
    signal.pause()


def _before(owner: Any, name: str, nth: int) -> None:
    """Stops before the nth call of `owner.name`."""
    real, calls = getattr(owner, name), 0

    def wrapper(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            _stop_here()
        return real(*args, **more)

    setattr(owner, name, wrapper)


def _set(point: str, job: Job) -> None:
    match point:
        case "in step 4":
            owner = FastTrainer if job.trainer.trainer == "fast" else LoraTrainer
            _before(owner, "compute_loss", 1 + job.micro_steps * 4)  # one call is the evaluation before
        case "optimiser of checkpoint 4 not written":
            _before(LoraTrainer, "_save_optimizer_and_scheduler", 2)
        case "checkpoint 4 not flushed":
            _before(publish, "flush_tree", 2)
        case "checkpoint 4 not renamed":
            _before(Path, "rename", 2)
        case "adapter not written":
            _before(run, "_write", 1)
        case "never":
            pass
        case _:
            raise SystemExit(f"no failpoint {point!r}")


class _PrintingHost(RecordingHost):
    def emit(self, call: int, **body: Any) -> None:
        for kind, message in body.items():
            print(kind, getattr(message, "step", ""), flush=True)


def _train(where: dict[str, str]) -> None:
    job = Job(Path(where["root"]), Path(where["dataset"]))
    job = dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, trainer=where["trainer"]))
    _set(where["point"], job)
    job.run(read_base(Path(where["model"])), _PrintingHost())
    print("done", flush=True)


def main() -> None:
    """Trains as each line says, until its input ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            print(os.getpid(), flush=True)
            return _train(json.loads(line))
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
