"""`smolorad train-job FILE`: alone, and shared by two processes under `accelerate launch`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_model
from tests.unit.engine.train_kit import write_dataset

TRAINER = {"max_steps": 4, "gradient_accumulation_steps": 4, "learning_rate": 1e-2, "logging_steps": 1, "save_steps": 2}
# `--multi_gpu` is its word for several processes; ACCELERATE_USE_CPU makes them talk by gloo.
TOGETHER = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
TOGETHER += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("job")
    tiny_model(root / "model")
    write_dataset(root / "rows", train_rows=40, held_out_rows=4)
    return root


def file(folder: Path, output: str, **changes: Any) -> Path:
    path = folder / f"{output}.json"
    given = {"model": "model", "dataset": "rows", "output": output, "dtype": "float32"}
    given |= {"lora": {"lora_dropout": 0.0}, "trainer": TRAINER}
    path.write_text(json.dumps(given | changes))
    return path


def run(launcher: list[str], path: Path) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *launcher, "-m", "smolorad.cli", "train-job", str(path)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def told(result: subprocess.CompletedProcess[str], kind: str) -> list[Any]:
    """The events of one kind."""
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return [line[kind] for line in lines if kind in line]


@pytest.fixture(scope="module")
def alone(folder: Path) -> subprocess.CompletedProcess[str]:
    return run([], file(folder, "alone"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trainer", ["fast", "plain"])
def test_two_processes_have_the_losses_of_one(folder: Path, alone: subprocess.CompletedProcess[str], trainer: str) -> None:
    together = run(TOGETHER, file(folder, trainer, trainer=TRAINER | {"trainer": trainer}))
    assert not [note for note in told(together, "note") if "plain trainer" in note["text"]]
    for left, right in zip(told(alone, "train"), told(together, "train"), strict=True):
        assert left["step"] == right["step"]
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
        assert left["scored_tokens"] == right["scored_tokens"]
    before, after = told(alone, "evaluation")[-1], told(together, "evaluation")[-1]
    assert before["loss"] == pytest.approx(after["loss"], rel=1e-5)
    for name in ("alone", trainer):
        assert (folder / name / "adapter_model.safetensors").is_file()
        assert sorted(path.name for path in (folder / f"{name}.job" / "checkpoints").iterdir()) == ["2", "4"]
    (trained,) = told(together, "trained")
    assert trained["steps"] == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": 3}, "names no model"),
        ({"epochs": 3}, "nothing else such as"),
        ({"trainer": {"max_stepz": 3}}, "max_stepz"),
        ({"trainer": {"max_steps": 0}}, "max_steps"),
        ({"dtype": "float8"}, "float32"),
        ({"dataset": "nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_file_is_one_sentence(folder: Path, changes: dict[str, Any], words: str) -> None:
    from smolorad.engine.job_file import main

    path = file(folder, "wrong", **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smolorad.engine.job_file.signal.signal", lambda *_: None)
        said: list[str] = []
        patch.setattr("builtins.print", lambda text, **_: said.append(text))
        assert main([str(path)], {}) == 1
    assert words in said[-1]
