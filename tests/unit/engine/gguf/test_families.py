"""Each architecture of GGUF becomes the model of transformers that it was made from: parameters, logits and config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smolorad.engine.gguf.architectures import ARCHITECTURES
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.model.pretrained import fitting_config, pretrained
from tests.gguf_kit import CASES, Case, keys_of, write_case

TOKENS = 40
_LONG = {
    *("cohere, q and k normed", "exaone 4 without windows", "gemma 3, capped", "gpt neox in sequence", "mistral", "phi 3"),
    *("qwen 2-joined", "qwen 3, windows", "stablelm in parallel", "starcoder 2 without biases"),
}

# What a file does not say, and generating does not need; or says otherwise.
_NOT_IN_FILES = {
    *("_name_or_path", "architectures", "dtype", "initializer_range", "output_router_logits", "router_aux_loss_coef"),
    *("transformers_version", "use_cache"),
}
_SAID_OTHERWISE = {
    "exaone 4": {"sliding_window_pattern"},  # `layer_types` says it
    "falcon, new": {"multi_query"},  # means nothing there
    "falcon, one key": {"num_kv_heads"},
    "mistral": {"attention_bias", "mlp_bias", "model_type", "pretraining_tp"},  # computed as a Llama
    "qwen 3, windows": {"max_window_layers"},  # it has none
}


def name_of(case: Case) -> str:
    rope = case.changes.get("rope_parameters", {})
    return "-".join([case.variant, *(["joined"] if case.joined else []), *([rope["rope_type"]] if "rope_type" in rope else [])])


def read(folder: Path) -> Any:
    opened = ModelFolder.open(folder)
    return pretrained(opened, fitting_config(opened), dtype=torch.float32)


def marked(case: Case) -> Any:
    """A variant that differs from another of its architecture in little is only for `make test-long`."""
    return pytest.param(case, id=name_of(case), marks=[pytest.mark.long] if name_of(case) in _LONG else [])


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_a_family(case: Case, tmp_path: Path, make_folder: Callable[[Path], Path]) -> None:
    original = case.model()
    found = read(make_folder(write_case(tmp_path / "model.gguf", case, original)))
    assert type(found).__name__ == type(original).__name__ or case.variant == "mistral"
    ours, theirs = dict(found.named_parameters()), dict(original.named_parameters())
    zeros = {name for name in ours.keys() - theirs.keys() if not ours[name].any()}
    assert ours.keys() - zeros == theirs.keys()
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name], parameter, rtol=0, atol=1e-6 if "norm" in name else 0, msg=name)
    ids = torch.randint(0, original.config.vocab_size, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(found(ids).logits, original(ids).logits, rtol=1e-5, atol=1e-5)
    assert_same_config(case, found.config, original.config)


def assert_same_config(case: Case, config: Any, original: Any) -> None:
    found, expected = config.to_dict(), original.to_dict()
    left_out = _NOT_IN_FILES | _SAID_OTHERWISE.get(case.variant, set())
    if "expert_feed_forward_length" not in keys_of(case, original):
        left_out |= {"moe_intermediate_size"}
    if expected.get("head_dim") is None:
        left_out |= {"head_dim"}  # follows from the sizes
    names = (found.keys() | expected.keys()) - left_out
    assert {name: found.get(name) for name in names} == {name: expected.get(name) for name in names}


def test_every_architecture_has_a_case() -> None:
    assert {case.architecture for case in CASES} == ARCHITECTURES.keys()
