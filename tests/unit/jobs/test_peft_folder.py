"""PEFT folders that users bring in."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolora.common.adapter_config import CONFIG, WEIGHTS
from smolorad.domain import LoraSettings
from smolorad.errors import Damaged, InvalidRequest, SmoloraError, UnsupportedModel
from smolorad.jobs.peft_folder import read_lora
from tests.examples import examples

LORA: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}


def tensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(24)


def folder_of(folder: Path, config: object = LORA, weights: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / WEIGHTS).write_bytes(tensors() if weights is None else weights)
    return folder


def test_shape_and_size_are_read(tmp_path: Path) -> None:
    lora, parameters = read_lora(folder_of(tmp_path / "a"))
    assert lora == LoraSettings(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=("q_proj", "v_proj"))
    assert parameters == 6


def test_what_peft_writes_is_read(tmp_path: Path) -> None:
    config = LORA | {
        "target_modules": "all-linear", "exclude_modules": None, "layers_to_transform": 3, "init_lora_weights": "gaussian",
        "rank_pattern": {"q_proj": 2}, "modules_to_save": ["lm_head"], "auto_mapping": None,
    }  # fmt: skip
    lora, _ = read_lora(folder_of(tmp_path / "a", config))
    assert lora.target_modules == ("all-linear",)
    assert (lora.layers_to_transform, lora.init_lora_weights, dict(lora.rank_pattern)) == ((3,), "gaussian", {"q_proj": 2})


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("{", Damaged),
        ("[]", Damaged),
        ({"peft_type": "IA3"}, UnsupportedModel),
        (LORA | {"r": "many"}, Damaged),
        (LORA | {"target_modules": 7}, Damaged),
        ("[" * 100_000, Damaged),
    ],
)
def test_other_configs_are_refused(tmp_path: Path, config: object, error: type[SmoloraError]) -> None:
    with pytest.raises(error):
        read_lora(folder_of(tmp_path / "a", config))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(UnsupportedModel, match="can run any code"):
        read_lora(folder)


def test_what_else_a_trainer_saved_is_not_looked_at(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a")
    expected = read_lora(folder)
    (folder / "checkpoint-5").mkdir()
    for name in ("training_args.bin", "adapter_model.bin", "checkpoint-5/optimizer.pt", "checkpoint-5/rng_state.pth"):
        (folder / name).write_bytes(b"x")
    assert read_lora(folder) == expected


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (folder_of(tmp_path / "a") / name).unlink()
    with pytest.raises(InvalidRequest, match=name):
        read_lora(tmp_path / "a")


@settings(max_examples=examples(200))
@given(st.integers(0, len(tensors()) - 1))
def test_weights_cut_anywhere_are_damaged(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    with pytest.raises(Damaged):
        read_lora(folder_of(tmp_path_factory.getbasetemp() / "cut", weights=tensors()[:length]))
