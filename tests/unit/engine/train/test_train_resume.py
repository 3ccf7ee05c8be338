"""A training that was killed goes on and ends bit for bit as if nothing had happened."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from smolorad.domain import LoraSettings
from smolorad.engine.model.base_model import BaseModel
from smolorad.errors import BadState, Cancelled, Damaged
from smolorad.link.v1 import link_pb2 as pb
from tests.tiny import tiny_model
from tests.unit.engine.train.train_kit import Job, RecordingHost, cancel_at, equal, read_base, write_dataset

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """As in the runner's process: the order of sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def base(model: Path) -> BaseModel:
    return read_base(model)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(params=["fast", pytest.param("plain", marks=pytest.mark.long)])
def job(tmp_path: Path, dataset: Path, request: pytest.FixtureRequest) -> Job:
    job = Job(tmp_path / "job", dataset)
    return dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, trainer=request.param))


@pytest.fixture(scope="module")
def runs(model: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Job, pb.Trained]]:
    """A whole run of a trainer, made once."""

    @functools.cache
    def made(trainer: str) -> tuple[Job, pb.Trained]:
        job = Job(tmp_path_factory.mktemp("whole"), dataset)
        job = dataclasses.replace(job, trainer=dataclasses.replace(job.trainer, trainer=trainer))
        return job, job.run(read_base(model))

    return made


@pytest.fixture
def undisturbed(job: Job, runs: Callable[[str], tuple[Job, pb.Trained]]) -> tuple[Job, pb.Trained]:
    return runs(job.trainer.trainer)


@pytest.fixture(scope="module")
def runner() -> Iterator[subprocess.Popen[str]]:
    """Trains in processes that can be killed."""
    command = [sys.executable, "-m", "tests.unit.engine.train.train_runner"]
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


KILLS = (
    ("never", "train 1", None),
    ("in step 4", "failpoint", 2),
    ("never", "checkpoint 4", 4),
    ("optimiser of checkpoint 4 not written", "failpoint", 2),
    ("checkpoint 4 not flushed", "failpoint", 2),
    ("checkpoint 4 not renamed", "failpoint", 2),
    ("adapter not written", "failpoint", 6),
)
USUAL_KILLS = {
    ("fast", "in step 4"),
    ("fast", "checkpoint 4 not flushed"),
    ("fast", "adapter not written"),
    ("plain", "checkpoint 4 not flushed"),
}


def kill_at(runner: subprocess.Popen[str], job: Job, model: Path, *, point: str, line: str) -> None:
    """Trains in a process of its own and kills it at a line of its output."""
    assert runner.stdin is not None
    assert runner.stdout is not None
    where = {"root": str(job.root), "dataset": str(job.dataset), "model": str(model), "trainer": job.trainer.trainer}
    print(json.dumps(where | {"point": point}), file=runner.stdin, flush=True)
    pid = int(runner.stdout.readline())
    lines: list[str] = []
    while not (lines and lines[-1].startswith("ended")):
        lines.append(runner.stdout.readline().strip())
        assert lines[-1], lines
        if lines[-1] == line:
            os.kill(pid, signal.SIGKILL)
    assert lines[-1] == f"ended {-signal.SIGKILL}", lines


# Both trainers are killed at each point; by default the plain one at one of them, as the same code writes its checkpoints.
@pytest.mark.parametrize(
    ("job", "point", "line", "goes_on_from"),
    [
        pytest.param(trainer, *point, marks=() if (trainer, point[0]) in USUAL_KILLS else pytest.mark.long)
        for point in KILLS
        for trainer in ("fast", "plain")
    ],
    indirect=["job"],
)
def test_killed(
    runner: subprocess.Popen[str],
    job: Job,
    base: BaseModel,
    model: Path,
    undisturbed: tuple[Job, pb.Trained],
    point: str,
    line: str,
    goes_on_from: int | None,
) -> None:
    kill_at(runner, job, model, point=point, line=line)
    host = RecordingHost()
    trained = job.run(base, host)
    whole, expected = undisturbed
    assert equal(job.adapter(), whole.adapter())
    assert trained == expected  # the losses too, and the evaluation before the first step, which is not done again
    notes = [note.text for note in host.of("note") if note.text.startswith("Continues")]
    assert notes == ([] if goes_on_from is None else [f"Continues from the checkpoint of step {goes_on_from}."])
    assert (0 in [e.step for e in host.of("evaluation")]) == (goes_on_from is None)
    assert job.saved_steps() == [4, 6]


def test_reports_after_a_resume_are_those_of_an_undisturbed_run(job: Job, base: BaseModel, tmp_path: Path) -> None:
    whole, resumed = RecordingHost(), RecordingHost()
    dataclasses.replace(job, root=tmp_path / "whole").run(base, whole)
    with pytest.raises(Cancelled):
        job.run(base, RecordingHost(cancel_at(1 + job.micro_steps * 3)))  # in step 3
    job.run(base, resumed)
    for left, right in zip(whole.of("train")[2:], resumed.of("train"), strict=True):
        assert (left.step, left.loss, left.learning_rate) == (right.step, right.loss, right.learning_rate)
        assert (left.epoch, left.grad_norm, left.tokens) == (right.epoch, right.grad_norm, right.tokens)


@pytest.mark.parametrize(
    "lora",
    [LoraSettings(init_lora_weights="pissa"), LoraSettings(use_dora=True), LoraSettings(modules_to_save=("norm",))],
    ids=["pissa", "dora", "modules_to_save"],
)
def test_resumes_whatever_the_adapter_is(job: Job, base: BaseModel, tmp_path: Path, lora: LoraSettings) -> None:
    job = dataclasses.replace(job, lora=lora, trainer=dataclasses.replace(job.trainer, neftune_noise_alpha=3.0))
    whole = dataclasses.replace(job, root=tmp_path / "whole")
    whole.run(base)
    with pytest.raises(Cancelled):
        job.run(base, RecordingHost(cancel_at(1 + job.micro_steps * 4 + 1)))  # in step 5: the second pass over ten rows
    job.run(base)
    assert equal(job.adapter(), whole.adapter())


@pytest.mark.parametrize("steps_of_an_epoch", [1, pytest.param(2, marks=pytest.mark.long), 3])
def test_resumes_at_the_border_of_an_epoch(job: Job, base: BaseModel, tmp_path: Path, steps_of_an_epoch: int) -> None:
    data = write_dataset(tmp_path / "small", train_rows=2 * steps_of_an_epoch - 1)  # the last step is short of a row
    job = dataclasses.replace(job, dataset=data)
    whole = dataclasses.replace(job, root=tmp_path / "whole")
    whole.run(base)
    micro_steps = (2 * steps_of_an_epoch - 1) / steps_of_an_epoch if job.micro_steps == 2 else 1
    with pytest.raises(Cancelled):
        job.run(base, RecordingHost(cancel_at(1 + round(4 * micro_steps) + 1)))
    assert job.saved_steps() == [2, 4]
    job.run(base)
    assert equal(job.adapter(), whole.adapter())


class TestTorn:
    """A checkpoint that is not whole is passed over."""

    @pytest.mark.parametrize(
        ("file", "damage"),
        [
            ("optimizer.pt", "missing"),
            pytest.param("rng_state.pth", "missing", marks=pytest.mark.long),
            ("trainer_state.json", "short"),
            ("adapter_model.safetensors", "flipped"),
        ],
    )
    def test_newest(self, job: Job, base: BaseModel, undisturbed: tuple[Job, pb.Trained], file: str, damage: str) -> None:
        with pytest.raises(Cancelled):
            job.run(base, RecordingHost(cancel_at(1 + job.micro_steps * 4 + 1)))
        assert job.saved_steps() == [2, 4]
        path = job.checkpoints / "4" / file
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink()
        if damage == "flipped":
            path.write_bytes(data)
        elif damage == "short":
            path.write_bytes(data[:-1])
        (job.checkpoints / ".removed-2-1").mkdir()
        host = RecordingHost()
        job.run(base, host)
        assert not (job.checkpoints / ".removed-2-1").exists()
        assert "Continues from the checkpoint of step 2." in [note.text for note in host.of("note")]
        assert equal(job.adapter(), undisturbed[0].adapter())
        assert job.saved_steps() == [4, 6]

    def test_all(self, job: Job, base: BaseModel, undisturbed: tuple[Job, pb.Trained]) -> None:
        job.run(base)
        for folder in job.checkpoints.iterdir():
            (folder / "manifest.json").write_text("{")
        host = RecordingHost()
        job.run(base, host)
        assert [e.step for e in host.of("evaluation")] == [0, 6]
        assert equal(job.adapter(), undisturbed[0].adapter())


class TestAnotherRun:
    """A checkpoint is continued by the run that wrote it, or not at all."""

    @pytest.fixture
    def begun(self, job: Job, base: BaseModel) -> Job:
        with pytest.raises(Cancelled):
            job.run(base, RecordingHost(cancel_at(1 + job.micro_steps * 2 + 1)))
        return job

    def test_settings(self, begun: Job, base: BaseModel) -> None:
        for other in (
            dataclasses.replace(begun, lora=LoraSettings(r=4, lora_dropout=0.2)),
            dataclasses.replace(begun, trainer=dataclasses.replace(begun.trainer, max_steps=7)),
        ):
            with pytest.raises(BadState, match=r"step 2 was written with other settings than this run has; start a new job"):
                other.run(base)
        assert begun.saved_steps() == [2]

    def test_dataset(self, begun: Job, base: BaseModel, tmp_path: Path) -> None:
        other = dataclasses.replace(begun, dataset=write_dataset(tmp_path / "other", train_rows=11))
        with pytest.raises(BadState, match="with other dataset than"):
            other.run(base)

    def test_base(self, begun: Job, base: BaseModel) -> None:
        with pytest.raises(BadState, match="with other base than"):
            begun.run(dataclasses.replace(base, fingerprint="0" * 64))

    def test_libraries_may_differ_and_it_is_said(self, begun: Job, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("smolorad.engine.train.checkpoint.version", lambda name: "99" if name == "torch" else "")
        monkeypatch.setattr("smolorad.engine.train.checkpoint._LIBRARIES", ("torch",))
        host = RecordingHost()
        begun.run(base, host)
        notes = " ".join(note.text for note in host.of("note"))
        assert f"torch {torch.__version__.split('+')[0]}" in notes
        assert "is now 99" in notes

    def test_a_published_dataset_is_checked(self, job: Job, base: BaseModel) -> None:
        from smolorad import publish

        stage = write_dataset(job.root / "made")
        publish.publish(stage, job.root / "published", {})
        job = dataclasses.replace(job, dataset=job.root / "published")
        with pytest.raises(Cancelled):
            job.run(base, RecordingHost(cancel_at(1)))
        (job.dataset / "train" / "state.json").write_text("{}")
        with pytest.raises(Damaged, match="is not as it was published"):
            job.run(base)
