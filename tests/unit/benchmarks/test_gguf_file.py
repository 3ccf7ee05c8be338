"""A folder written as a GGUF: transformers' own reader gets the same weights, config and token ids back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from benchmarks.gemma import CONFIG, hf_name
from benchmarks.gguf_file import gguf_name, rope_factors, write_f16
from benchmarks.harness import PeerMissing
from benchmarks.shapes import SHAPES
from tests.tiny import tiny_tokenizer

LLAMA3 = SHAPES["llama-3.2-1b-shape"].config["rope_parameters"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}),
    # transformers' reader takes no head_dim of Qwen 3 from the file: 128 is its default.
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "head_dim": 128},
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"rope_parameters": CONFIG["rope_parameters"], "sliding_window": 16, "query_pre_attn_scalar": 256},
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_reads_back_what_was_written(kind: str, tmp_path: Path) -> None:
    model_class, config_class, more = MODELS[kind]
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=len(tokenizer), **{**SIZES, **more})).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_f16(tmp_path, tmp_path / "model.gguf")
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-3, rtol=1e-3, msg=name)
    ids = torch.tensor([tokenizer("The keeper lit the lamp.")["input_ids"]])
    torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=2e-2, rtol=2e-2)


def test_the_frequencies_of_llama_3_are_divided_as_transformers_divides_them() -> None:
    config = LlamaConfig(**{**SIZES, "head_dim": 64}, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = LLAMA3["rope_theta"] ** -(torch.arange(0, 64, 2) / 64)
    factors = rope_factors({"head_dim": 64, "rope_parameters": LLAMA3})
    np.testing.assert_allclose(plain.numpy() / factors, scaled.numpy(), rtol=1e-5)
    assert factors.min() == 1.0
    assert factors.max() == 32.0


def test_names_of_gemma_go_both_ways() -> None:
    for name in ("blk.3.attn_norm.weight", "blk.17.post_ffw_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        assert gguf_name(hf_name(name), "gemma3_text") == name


def test_a_model_of_another_kind_is_a_peer_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}), encoding="utf-8")
    with pytest.raises(PeerMissing, match="of the kind mamba"):
        write_f16(tmp_path, tmp_path / "model.gguf")
