"""`smolorad train-job FILE`: alone, and shared by two processes under `accelerate launch`."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from smolorad import publish
from smolorad.engine.train_job import main, read
from smolorad.errors import InvalidRequest
from tests.tiny import tiny_model
from tests.unit.engine.train.train_kit import write_dataset

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


def file(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / f"{name}.json"
    given = {"model": "model", "dataset": "rows", "output": name, "dtype": "float32"}
    given |= {"lora": {"lora_dropout": 0.0}, "trainer": TRAINER}
    path.write_text(json.dumps(given | changes))
    return path


def here(path: Path) -> subprocess.CompletedProcess[str]:
    """What the command does, in this process, which has imported everything."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("smolorad.engine.train_job.signal.signal", lambda *_: None)
        status = main([str(path)], {})
    return subprocess.CompletedProcess([], status, out.getvalue(), err.getvalue())


def run(launcher: list[str], path: Path) -> subprocess.CompletedProcess[str]:
    """What it does in a process of its own, or in several."""
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
    return here(file(folder, "alone"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trainer", ["fast", pytest.param("plain", marks=pytest.mark.long)])
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


def test_a_result_is_whole_and_its_own_alone_is_replaced(folder: Path, alone: subprocess.CompletedProcess[str]) -> None:
    assert told(alone, "trained")
    publish.verify(folder / "alone")
    before = (folder / "alone" / "adapter_model.safetensors").read_bytes()
    (folder / "alone" / "README.md").write_text("mine")
    refused = here(file(folder, "alone"))
    assert (refused.returncode, "name another output" in refused.stderr) == (1, True)
    (folder / "alone" / "README.md").unlink()
    assert told(here(file(folder, "alone")), "trained")
    assert (folder / "alone" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize("output", ["precious", ".", "model", "rows", "thesis.txt", "parent"])
def test_nothing_of_the_users_is_taken_away(tmp_path: Path, folder: Path, output: str) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copytree(folder / "rows", tmp_path / "rows")
    for path in (tmp_path / "thesis.txt", tmp_path / "precious" / "thesis.txt", tmp_path / "parent" / "adapter_config.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("years of work")
    given = {"model": "model", "dataset": "rows", "output": output, "parent": "parent"}
    (tmp_path / "job.json").write_text(json.dumps(given))
    files = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidRequest, match="name another output"):
        read(tmp_path / "job.json")
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.long
def test_a_run_that_fails_leaves_an_earlier_result(folder: Path) -> None:
    result = run([], file(folder, "kept", dataset="nowhere"))
    assert (result.returncode, (folder / "kept").exists()) == (1, False)
    assert told(run([], file(folder, "kept", trainer=TRAINER | {"max_steps": 2})), "trained")
    publish.verify(folder / "kept")
    assert run([], file(folder, "kept", dataset="nowhere")).returncode == 1
    publish.verify(folder / "kept")


def test_a_stopped_run_says_how_it_goes_on(folder: Path) -> None:
    command = [sys.executable, "-m", "smolorad.cli", "train-job"]
    path = file(folder, "stopped", trainer=TRAINER | {"max_steps": 10_000, "tensorboard": True})
    process = subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if '"checkpoint"' in line:
            process.send_signal(signal.SIGTERM)
            break
    _, error = process.communicate(timeout=120)
    assert "run the same command again" in error
    assert any("stopped.job/tensorboard" in line for line in lines)
    assert not (folder / "stopped").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "names no model"),
        ({"model": 3}, "model: is no path"),
        ({"dataset": ""}, "dataset: is no path"),
        ({"parent": ["a"]}, "parent: is no path"),
        ({"parent": "a\0b"}, "NUL"),
        ({"output": "a\0b"}, "NUL"),
        ({"output": "a\ud800"}, "output: is not UTF-8"),
        ({"output": "x" * 300}, "too long"),
        ({"lora": 5}, "lora: is no object"),
        ({"lora": []}, "lora: is no object"),
        ({"trainer": [1]}, "trainer: is no object"),
        ({"lora": {"r\ud800": 8}}, "lora: has half of a surrogate pair"),
        ({"lora": {"rank_pattern": {"\ud800": 8}}}, "lora: has half of a surrogate pair"),
        ({"trainer": {"sample_prompts": ["\ud800"]}}, "trainer: has half of a surrogate pair"),
        ({"epochs": 3}, "nothing else such as"),
        ({"dtype": ["float32"]}, "must be one of float32"),
        ({"trainer": {"max_stepz": 3}}, "max_stepz"),
        ({"trainer": {"max_steps": 0}}, "max_steps"),
        ({"dtype": "float8"}, "must be one of float32"),
        ({"dataset": "nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_file_is_one_sentence(folder: Path, changes: dict[str, Any], words: str) -> None:
    result = here(file(folder, "wrong", **changes))
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["[]", "[1]", "null", "5", '"x"', "[" * 100_000, "\0", ""])
def test_a_file_that_holds_no_object_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    result = here(tmp_path / "job.json")
    assert result.returncode == 1
    assert result.stderr.startswith(f"smolorad: {tmp_path / 'job.json'} ")
    assert result.stderr.count("\n") == 1


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert here(tmp_path / "job.json").stderr == f"smolorad: {tmp_path / 'job.json'} does not exist; check the path.\n"


@pytest.mark.parametrize("changes", [{"output": "model/config.json/out"}, {"output": "loop"}, {"parent": "loop"}])
def test_a_path_that_the_system_refuses_is_one_sentence(folder: Path, changes: dict[str, str]) -> None:
    if not (folder / "loop").is_symlink():
        (folder / "loop").symlink_to("loop")
    result = here(file(folder, "refused", **changes))
    assert result.returncode == 1
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("smolorad: ")]
    assert next(iter(changes.values())) in sentence


@pytest.mark.parametrize("arguments", [[], ["a.json", "b.json"]])
def test_one_file_is_wanted(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, {}) == 2
    assert "Give one file" in capsys.readouterr().err


def test_a_wrong_file_is_found_before_anything_heavy_is_imported(folder: Path) -> None:
    path = file(folder, "wrong", dataset="nowhere", lora={"rank": 8})
    code = "import sys; from smolorad.engine.train_job import main; main(sys.argv[1:], {}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "rank" in done.stderr
    assert done.stdout == "False\n"
