"""The held-out loss is the same on any number of processes: the definition's, for rows that do not divide evenly as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from smolorad.engine.train.held_out import HeldOut
from tests.e2e.test_train_job import here
from tests.tiny import END, tiny_model
from tests.unit.engine.kit import plain_model
from tests.unit.engine.train.train_kit import texts, write_columns, write_dataset

TRAINER = {"gradient_accumulation_steps": 6, "learning_rate": 3e-2, "logging_steps": 1, "per_device_eval_batch_size": 2}
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCH += ["--dynamo_backend", "no", "--main_process_port", "0", "--num_processes"]


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    name: str
    rows: int  # held out
    trainer: dict[str, Any]
    shape: str = "text"


CASES = [
    Case("fast", 5, {"trainer": "fast"}),
    Case("plain", 5, {"trainer": "plain"}),
    Case("fast-one-row", 1, {"trainer": "fast"}),
    Case("plain-one-row", 1, {"trainer": "plain"}),
    Case("even", 12, {"trainer": "plain", "per_device_eval_batch_size": 4}),
    Case("large-batches", 7, {"trainer": "fast", "per_device_eval_batch_size": 8}),
    Case("packed", 13, {"trainer": "plain", "packing": True, "max_length": 24}),
    Case("fast-packed", 13, {"trainer": "fast", "packing": True, "max_length": 24}),
    Case("unscored-fast", 4, {"trainer": "fast", "per_device_eval_batch_size": 1}, "unscored"),
    Case("unscored-plain", 4, {"trainer": "plain", "per_device_eval_batch_size": 1}, "unscored"),
    Case("pairs", 5, {}, "pairs"),
    Case("pairs-one", 1, {}, "pairs"),
    Case("early", 5, {"max_steps": 12, "eval_steps": 1, "learning_rate": 1.0, "early_stopping_patience": 1}),
]


def dataset(folder: Path, case: Case) -> None:
    words = texts(12 + case.rows)
    if case.shape == "pairs":
        rejected = [" ".join(reversed(text.split())) + " moon" for text in words]
        write_columns(folder, case.rows, prompt=[f"{text[:5]}:" for text in words], chosen=words, rejected=rejected)
    elif case.shape == "unscored":  # rows of a single token, which nothing can predict, in both splits
        write_columns(folder, case.rows, text=[*words[:10], END, *words[10:-2], END, words[-1]])
    else:
        write_dataset(folder, train_rows=12, held_out_rows=case.rows)


def written(folder: Path, case: Case, processes: int) -> str:
    """The file of a case's job."""
    path = folder / f"{case.name}-{processes}.json"
    given = {"model": "model", "dataset": case.name, "output": f"{case.name}-{processes}-out", "dtype": "float32"}
    trainer = {"max_steps": 2} | TRAINER | case.trainer
    path.write_text(json.dumps(given | {"lora": {"lora_dropout": 0.0}, "trainer": trainer}))
    return str(path)


def run(folder: Path, processes: int) -> dict[str, list[dict[str, Any]]]:
    """The events of each case."""
    paths = [written(folder, case, processes) for case in CASES]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}
    launcher = [*LAUNCH, str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.e2e.held_out_jobs", *paths]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    jobs: list[list[dict[str, Any]]] = [[]]
    for event in events:
        jobs[-1].append(event)
        if "trained" in event:
            jobs.append([])
    return {case.name: job for case, job in zip(CASES, jobs, strict=False)}


def losses(events: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(event["evaluation"].get("step", 0), event["evaluation"]["loss"]) for event in events if "evaluation" in event]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("held-out")
    tiny_model(root / "model")
    for case in CASES:
        dataset(root / case.name, case)
    return root


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return run(folder, 1)


@pytest.mark.timeout(600)
@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_have_the_held_out_losses_of_one(
    folder: Path, alone: dict[str, list[dict[str, Any]]], processes: int
) -> None:
    together = run(folder, processes)
    for case in CASES:
        mine, theirs = losses(alone[case.name]), losses(together[case.name])
        assert [step for step, _ in mine] == [step for step, _ in theirs], case
        for (step, left), (_, right) in zip(mine, theirs, strict=True):
            # After steps whose sums were taken in another order, adapters differ in their last digits. Packed rows cannot be
            # shared out evenly among the processes' steps, so that they learn a little else.
            if step == 0 or "packing" not in case.trainer:
                assert right == pytest.approx(left, rel=1e-5 if step == 0 else 1e-4), (case, step)
        trained, theirs_trained = alone[case.name][-1]["trained"], together[case.name][-1]["trained"]
        assert trained["steps"] == theirs_trained["steps"], case
    assert alone["early"][-1]["trained"]["steps"] < 12  # it did stop


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
def test_one_process_has_the_definition_s(folder: Path, case: Case) -> None:
    model, tokenizer = plain_model(folder / "model"), AutoTokenizer.from_pretrained(folder / "model")
    nats, scored = 0.0, 0
    for text in texts(5, first=1000):
        ids = torch.tensor([*tokenizer(text).input_ids, tokenizer.eos_token_id])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        nats += F.cross_entropy(logits, ids[1:], reduction="sum").item()
        scored += len(ids) - 1
    done = here(Path(written(folder, case, 0)))
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert losses(events)[0] == (0, pytest.approx(nats / scored, rel=1e-5))


@pytest.mark.parametrize("rows", range(1, 26))
def test_every_row_counts_once_and_batches_are_alike(rows: int) -> None:
    class Rows(list[int]):
        def __getitems__(self, places: list[int]) -> list[int]:
            return [self[place] for place in places]

    for processes in range(1, 6):
        for batch in (1, 2, 3, 8, 100):
            parts = [HeldOut(Rows(range(rows)), lambda some: some, batch, process, processes) for process in range(processes)]
            given = [[(some, part.counts) for some in part] for part in parts]
            assert len({len(part) for part in parts}) == 1
            assert sorted(row for part in given for some, counts in part if counts for row in some) == list(range(rows))
            for at_once in zip(*given, strict=True):
                assert len({len(some) for some, _ in at_once}) == 1
            assert max(len(some) for part in given for some, _ in part) <= batch
            assert len(parts[0]) <= -(-rows // (batch * processes)) + 2
