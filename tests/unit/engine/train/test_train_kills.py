"""Whenever a training is killed, also in the middle of a save, it goes on and ends bit for bit as if nothing had happened."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import tiny_model
from tests.unit.engine.train.train_kit import Job, write_dataset

ROOT = Path(__file__).parents[4]
KILLS = int(os.environ.get("SMOLORA_TEST_KILLS", "25"))  # for each of the two trainers, so 50 in all
SEED = 20


class Forker:
    """`train_forker` as a function."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, job: Job, moment: int = 0) -> str:
        """Trains until done or killed; `killed`, or how many moments it had."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(job.root, moment, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module", params=["fast", "plain"])
def forker(tmp_path_factory: pytest.TempPathFactory, dataset: Path, request: pytest.FixtureRequest) -> Iterator[Forker]:
    model = tiny_model(tmp_path_factory.mktemp("model"))
    command = [sys.executable, "-m", "tests.unit.engine.train.train_forker", str(model), str(dataset), request.param]
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Forker(process)
        assert process.stdin is not None
        process.stdin.close()


def adapter(job: Job) -> bytes:
    return (job.output / "adapter_model.safetensors").read_bytes()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_at_random_moments(forker: Forker, dataset: Path, tmp_path: Path) -> None:
    whole = Job(tmp_path / "whole", dataset)
    moments = int(forker(whole))
    assert moments > 60
    for moment in random.Random(SEED).sample(range(1, moments + 1), min(KILLS, moments)):
        job = Job(tmp_path / str(moment), dataset)
        assert forker(job, moment) == "killed"
        assert forker(job).isdecimal(), f"not resumed after moment {moment}"
        assert adapter(job) == adapter(whole), f"another adapter after moment {moment}"
        assert job.saved_steps()[-2:] == [4, 6]
    job = Job(tmp_path / "again-and-again", dataset)
    for moment in (moments // 2, 5):
        assert forker(job, moment) == "killed"
    assert forker(job).isdecimal()
    assert adapter(job) == adapter(whole)
