"""The models that are measured, by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.gemma import CONFIG
from benchmarks.models import NAMES, model_folder
from benchmarks.shapes import SHAPES, make_shape
from tests.tiny import tiny_tokenizer

PARAMETERS = {"qwen3-0.6b-shape": 596_049_920, "llama-3.2-1b-shape": 1_235_814_400, "llama-3.2-3b-shape": 3_212_749_824}


def test_a_folder_is_itself_and_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert model_folder(str(tmp_path)) == tmp_path
    with pytest.raises(SystemExit, match="gemma3-270m"):
        model_folder(str(tmp_path / "missing"))


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_as_many_parameters_as_the_model_it_is_named_after(name: str) -> None:
    assert name in NAMES
    shape = SHAPES[name]
    kind = "qwen3" if shape.architecture == "Qwen3" else "llama"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape.config))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_every_id_of_a_shape_is_text_and_greedy_text_does_not_end(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "starter")
    known = len(tiny_tokenizer())
    shape = replace(
        SHAPES["qwen3-0.6b-shape"],
        config={
            **SHAPES["qwen3-0.6b-shape"].config,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "vocab_size": known + 100,
        },
    )
    folder = tmp_path / "made"
    make_shape(shape, tmp_path / "starter", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == known + 100
    assert tokenizer.decode([known, known + 99]) == f" <{known}> <{known + 99}>"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.bfloat16
    assert not model.lm_head.weight[tokenizer.eos_token_id].any()
    assert model.lm_head.weight[known].any()
    made = model.generate(torch.tensor([[known]]), max_new_tokens=16, do_sample=False)
    assert made.shape[1] == 17


def test_one_layer_in_six_of_gemma_sees_the_whole_text() -> None:
    kinds = CONFIG["layer_types"]
    assert [at for at, kind in enumerate(kinds) if kind == "full_attention"] == [5, 11, 17]
