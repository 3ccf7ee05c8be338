"""What each precision costs in quality."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.quality import TEXTS, Loss, gguf_bytes, measure
from benchmarks.rotated import make_rotated
from tests.tiny import CORPUS, tiny_model

# llama.cpp's Q4_K_M of the rotated starter on these texts; at 6.16 bits a weight, as most of its matrices fall back to Q5_0.
_Q4_K_M_KL = 0.082


def test_figures_of_a_tiny_model(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("\n".join(CORPUS), encoding="utf-8")
    folder = tiny_model(tmp_path, "llama", hidden_size=64, initializer_range=0.1)
    found = measure(folder, [text])
    json.dumps(found)
    assert list(found) == ["transformers_fp32", "transformers_bf16", "exact", "int8", "int4"]
    assert found["transformers_fp32"]["kl_to_fp32"] == 0
    kl, sizes = ([found[name][key] for name in ("exact", "int8", "int4")] for key in ("kl_to_fp32", "bits_per_weight"))
    assert kl == sorted(kl)
    assert sizes[0] == 16
    assert sizes[1] == 8.5
    assert 5 < sizes[2] < 6.5
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert found["exact"]["bytes"] == 2 * weights


def test_a_loss_is_the_mean_over_tokens() -> None:
    loss, logits = Loss(), torch.zeros(4, 8)
    true = torch.tensor([0.5, 0.5] + [1e-30] * 6).log().expand(4, 8)
    loss.add(logits, true, [0, 1, 2, 3])
    assert loss.figures(1)["perplexity"] == 8
    assert loss.figures(1)["kl_to_fp32"] == pytest.approx(1.3862944, abs=1e-5)  # log 4


def test_bytes_of_a_gguf_are_those_that_a_token_reads(tmp_path: Path) -> None:
    import numpy as np
    from gguf import GGUFWriter

    for has_head in (True, False):
        writer = GGUFWriter(path := tmp_path / f"{has_head}.gguf", "llama")
        names = ["token_embd.weight", "blk.0.attn_q.weight", *(["output.weight"] if has_head else [])]
        for name in names:
            writer.add_tensor(name, np.zeros((4, 8), np.float16))
        writer.add_tensor("output_norm.weight", np.zeros(8, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert gguf_bytes(path) == 2 * 2 * 4 * 8


@pytest.mark.long
@pytest.mark.model
def test_int4_loses_less_than_llama_cpp_with_fewer_bytes(starter_model: Path, tmp_path: Path) -> None:
    make_rotated(starter_model, tmp_path)
    found = measure(tmp_path, TEXTS[:3])
    assert found["int4"]["kl_to_fp32"] < 0.95 * _Q4_K_M_KL
    assert found["int4"]["bits_per_weight"] < 5.6
    assert found["int8"]["kl_to_fp32"] < 0.005
