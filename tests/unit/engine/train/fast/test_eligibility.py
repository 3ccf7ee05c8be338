"""What the fast trainer cannot train, the plain one does, and it is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.train.fast import attention, kernels
from smolorad.engine.train.fast.loss import Head
from tests.families import ODD, REPEATABLE, family_folder
from tests.tiny import tiny_model
from tests.unit.engine.train.train_kit import Job, RecordingHost, equal, read_base, weights_of, write_dataset

SETTINGS = TrainerSettings(trainer="fast", max_steps=2, gradient_accumulation_steps=2, learning_rate=1e-2, max_length=512)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", held_out_rows=0)


@pytest.mark.parametrize(
    ("variant", "changes", "lora", "settings", "reason"),
    [
        ("llama", {}, {}, {"neftune_noise_alpha": 5.0}, "NEFTune's noise depends on padding"),
        ("llama, tied", {}, {"modules_to_save": ("lm_head",)}, {}, "its output head is "),
        ("gpt oss", {}, {}, {}, "its attention is given s_aux"),
        ("mamba", {}, {"target_modules": ("in_proj",)}, {}, "texts in one row come out"),
        ("phi 3, longrope", {"max_position_embeddings": 512}, {}, {}, "depend on the longest row of a batch"),
        ("qwen 3 moe", {"router_aux_loss_coef": 0.001}, {}, {}, "its experts have a loss of their own"),
    ],
    ids=["neftune", "head", "sinks", "state", "longrope", "experts"],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:.*tied.*:UserWarning")
def test_falls_back(
    tmp_path: Path,
    dataset: Path,
    variant: str,
    changes: dict[str, Any],
    lora: dict[str, Any],
    settings: dict[str, Any],
    reason: str,
) -> None:
    base = read_base(family_folder(tmp_path / "model", variant, ODD, **(REPEATABLE | changes)))
    host = RecordingHost()
    job = Job(tmp_path / "job", dataset, LoraSettings(r=4, **lora), dataclasses.replace(SETTINGS, **settings))
    job.run(base, host)
    plain = dataclasses.replace(job, root=tmp_path / "plain", trainer=dataclasses.replace(job.trainer, trainer="plain"))
    plain.run(base)
    (note,) = host.of("note")
    assert note.text.startswith("The plain trainer takes this run, as the fast one cannot: ")
    assert reason in note.text
    assert equal(job.adapter(), plain.adapter())


@pytest.mark.parametrize("change", [{"softcap": None}, {"scale": 2.0}, {"softcap": 3.9}], ids=str)
def test_logits_that_are_changed_otherwise_are_found_out(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, float | None]
) -> None:
    base = read_base(family_folder(tmp_path / "model", "gemma 2", ODD))
    known = Head.of
    monkeypatch.setattr(Head, "of", lambda model: dataclasses.replace(known(model), **change))
    host = RecordingHost()
    Job(tmp_path / "job", dataset, trainer=SETTINGS).run(base, host)
    assert "texts in one row come out" in host.of("note")[0].text


def test_windows_that_are_not_handed_on_are_found_out(tmp_path: Path, dataset: Path) -> None:
    base = read_base(family_folder(tmp_path / "model", "qwen 2, windows", ODD, sliding_window=100))
    host = RecordingHost()
    for layer in base.model.model.layers:
        layer.self_attn.sliding_window = None
    Job(tmp_path / "other", dataset, trainer=SETTINGS).run(base, host)
    assert "does not say which of its layers have a window" in host.of("note")[0].text


def test_a_window_that_no_row_fills_is_no_hindrance(tmp_path: Path, dataset: Path) -> None:
    base = read_base(tiny_model(tmp_path / "model", "mistral", sliding_window=100))
    host = RecordingHost()
    Job(tmp_path / "job", dataset, trainer=dataclasses.replace(SETTINGS, max_length=100)).run(base, host)
    assert host.of("note") == []


@pytest.mark.parametrize(("architecture", "name"), [("gpt2", "n_positions"), ("llama", "max_position_embeddings")])
def test_a_context_shorter_than_any_trial(tmp_path: Path, dataset: Path, architecture: str, name: str) -> None:
    base = read_base(tiny_model(tmp_path / "model", architecture, **{name: 12, "max_position_embeddings": 12}))
    host = RecordingHost()
    Job(tmp_path / "job", dataset, trainer=SETTINGS).run(base, host)
    assert not [note for note in host.of("note") if "plain trainer" in note.text]


def test_a_start_that_rounds_the_base_is_compared_with_itself(tmp_path: Path, dataset: Path) -> None:
    base = read_base(tiny_model(tmp_path / "model"), torch.bfloat16)
    before, host = weights_of(base), RecordingHost()
    Job(tmp_path / "job", dataset, LoraSettings(r=4, init_lora_weights="olora"), SETTINGS).run(base, host)
    assert host.of("note") == []
    assert weights_of(base) == before


def test_a_model_whose_attention_goes_both_ways_is_found_out(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = read_base(tiny_model(tmp_path / "model"))
    monkeypatch.setattr(kernels, "_kernels", lambda dtype: None)
    monkeypatch.setattr(attention, "_beyond", lambda block, shared, *_: torch.zeros(block * shared, block))
    host = RecordingHost()
    Job(tmp_path / "job", dataset, trainer=SETTINGS).run(base, host)
    assert "texts in one row come out" in host.of("note")[0].text
