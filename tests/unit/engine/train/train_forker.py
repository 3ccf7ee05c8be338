"""A process that trains over and over, each time in a fork of its own, and has some of them killed.

`python -m tests.unit.engine.train.train_forker MODEL DATASET TRAINER` reads lines `ROOT MOMENT` and answers each with `killed`
or with the number of moments that the run had. A moment is a call of what a training passes on its way: a loss, an optimiser's
step, a file written, flushed, renamed, removed. At the moment named (0: at none) the fork kills itself with SIGKILL, before the
call; a file that is being written is then half there. Forks, so that fifty runs import torch once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from smolorad.engine.train import lora as engine_lora
from smolorad.engine.train.fast.trainer import FastTrainer
from smolorad.engine.train.trl_trainers import LoraTrainer
from tests.unit.engine.train.train_kit import Job, RecordingHost, read_base

_PASSED = (
    (LoraTrainer, "compute_loss"),
    (FastTrainer, "summed_loss"),
    (torch.optim.AdamW, "step"),
    (torch, "save"),
    (engine_lora, "save_file"),
    (os, "fsync"),
    (Path, "rename"),
    (shutil, "rmtree"),
)


class _Moments:
    """Counts, and ends the process at one."""

    def __init__(self, fatal: int) -> None:
        self.count = 0
        self._fatal = fatal

    def watch(self, owner: Any, name: str) -> None:
        """Counts the calls of `owner.name`."""
        real = getattr(owner, name)

        def wrapper(*args: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self._fatal:
                if name in ("save", "save_file"):
                    real(*args, **more)
                    _tear(args[1])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        setattr(owner, name, wrapper)


def _tear(path: Any) -> None:
    os.truncate(path, Path(path).stat().st_size // 2)


def _train(job: Job, base: Any, fatal: int) -> int:
    moments = _Moments(fatal)
    for owner, name in _PASSED:
        moments.watch(owner, name)
    with contextlib.redirect_stdout(sys.stderr):
        job.run(base, RecordingHost())
    return moments.count


def _answers(model: Path, dataset: Path, trainer: str) -> Iterator[str]:
    base = read_base(model)
    job = Job(Path(), dataset)
    job = dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, trainer=trainer))
    for line in sys.stdin:
        root, fatal = line.split()
        receiving, sending = os.pipe()
        if (child := os.fork()) == 0:
            count = _train(dataclasses.replace(job, root=Path(root)), base, int(fatal))
            os.write(sending, str(count).encode())
            os._exit(0)
        os.close(sending)
        with os.fdopen(receiving) as pipe:
            count = pipe.read()
        _, status = os.waitpid(child, 0)
        yield "killed" if os.WIFSIGNALED(status) else count


def main() -> None:
    """Answers until its input ends."""
    torch.set_num_threads(1)
    for answer in _answers(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]):
        print(answer, flush=True)


if __name__ == "__main__":
    main()
