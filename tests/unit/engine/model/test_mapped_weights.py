"""Weights in a file of the engine's own: the same numbers, whether their memory was given back or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from smolorad.engine.model.load_transformers import map_model
from tests.tiny import tiny_model
from tests.unit.engine.kit import plain_model

IDS = torch.arange(12)[None]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_model_computes_the_same(architecture: str, tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path / "model", architecture))
    with torch.inference_mode():
        before = model(input_ids=IDS).logits
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is embedding.weight
    mapped_weights = map_model(model, tmp_path / "weights")
    assert mapped_weights is not None
    shutil.rmtree(tmp_path / "model")
    assert not list((tmp_path / "weights").iterdir())  # nobody else can reach it
    assert (head.weight is embedding.weight) is tied
    for _ in range(2):
        with torch.inference_mode():
            assert torch.equal(model(input_ids=IDS).logits, before)
        mapped_weights.release_idle_memory()


@pytest.mark.skipif(not hasattr(psutil.Process(), "memory_maps"), reason="this system does not tell")
def test_the_memory_goes_back(tmp_path: Path) -> None:
    layer = nn.Linear(2048, 2048, dtype=torch.bfloat16)
    mapped_weights = map_model(layer, tmp_path)
    assert mapped_weights is not None
    process = psutil.Process()
    float(layer.weight.detach().sum())
    before = process.memory_info().rss
    mapped_weights.release_idle_memory()
    assert before - process.memory_info().rss > 0.9 * layer.weight.nbytes


def test_without_room_the_model_stays_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layer = nn.Linear(4, 4)
    before = layer.weight.data_ptr()
    (tmp_path / "file").write_text("")
    assert map_model(layer, tmp_path / "file") is None
    assert layer.weight.data_ptr() == before
    assert "cannot be written" in caplog.text
