"""A model with a rotated hidden size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.models import NAMES, ROTATED
from benchmarks.rotated import make_rotated, orthogonal, rotate
from tests.tiny import tiny_model

TOKENS = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
@torch.inference_mode()
def test_a_rotated_model_computes_the_same_logits(tmp_path: Path, *, tied: bool) -> None:
    folder = tiny_model(tmp_path, "llama", tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.weight.copy_(torch.linspace(0.5, 2, len(module.weight)))
    before, old = model(TOKENS).logits, model.model.layers[0].mlp.up_proj.weight.clone()
    rotate(model)
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.model.layers[0].mlp.up_proj.weight, old, atol=0.1)


def test_the_folder_has_plain_norms_and_a_head_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "rotated"
    folder.mkdir()
    make_rotated(tiny_model(tmp_path / "source", "llama"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.bfloat16
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert all(bool((norm == 1).all()) for name, norm in model.named_parameters() if "norm" in name)
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size
    assert ROTATED in NAMES


def test_a_rotation_keeps_lengths() -> None:
    rotation = orthogonal(48)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(48, dtype=torch.float64))
    assert torch.equal(rotation, orthogonal(48))
