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
    given = {"model": "model", "dataset": "rows", "output": output, "lora": {"lora_dropout": 0.0}, "trainer": TRAINER}
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


@pytest.mark.timeout(300)
def test_two_processes_have_the_losses_of_one(folder: Path) -> None:
    one, two = run([], file(folder, "one")), run(TOGETHER, file(folder, "two"))
    for left, right in zip(told(one, "train"), told(two, "train"), strict=True):
        assert left["step"] == right["step"]
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
        assert left["scored_tokens"] == right["scored_tokens"]
    before, after = told(one, "evaluation")[-1], told(two, "evaluation")[-1]
    assert before["loss"] == pytest.approx(after["loss"], rel=1e-4)
    for name in ("one", "two"):
        assert (folder / name / "adapter_model.safetensors").is_file()
        assert sorted(path.name for path in (folder / f"{name}.job" / "checkpoints").iterdir()) == ["2", "4"]
    (trained,) = told(two, "trained")
    assert trained["steps"] == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": 3}, "names no model"),
        ({"epochs": 3}, "nothing else such as"),
        ({"trainer": {"max_stepz": 3}}, "max_stepz"),
        ({"trainer": {"max_steps": 0}}, "max_steps"),
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
