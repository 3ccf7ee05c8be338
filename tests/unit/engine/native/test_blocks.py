"""Attention to more keys than a block has: however a text is divided into steps, and however threads share the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smolorad.domain import Precision
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part
from tests.tiny import tiny_model
from tests.unit.engine.kit import native_of, plain_model

TOKENS = torch.randint(0, 300, (500,), generator=torch.Generator().manual_seed(6)).tolist()  # a block has 256 keys
# Windows that end within a block, at its end, and beyond it; ALiBi; a soft cap; heads of their own keys; one key head for all.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-one-key-head": {"num_key_value_heads": 1},
    "mistral-100": {"sliding_window": 100},
    "mistral-256": {"sliding_window": 256},
    "mistral-300": {"sliding_window": 300},
    "gemma2": {"sliding_window": 90},
    "gpt_neox": {},
}


def model_of(folder: Path, name: str, **changes: Any) -> Any:
    return plain_model(tiny_model(folder, name.partition("-")[0], **(MODELS[name] | changes)))


def in_parts(native: NativeModel, most: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The logits after every token of TOKENS, some tokens a step."""
    cache = native.cache(len(TOKENS))
    return np.concatenate(
        [native.step([Part(TOKENS[at : at + most], cache, every=True)]) for at in range(0, len(TOKENS), most)]
    )


@pytest.mark.parametrize("most", [1, 9, MAX_ROWS])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, most: int, tmp_path: Path) -> None:
    model = model_of(tmp_path, name)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([TOKENS])).logits[0]
    found = torch.from_numpy(in_parts(native_of(model), most))
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("in_bf16", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_neither_parts_nor_threads_change_a_bit(name: str, in_bf16: bool, tmp_path: Path) -> None:
    """Of a packed model, whose products are the same for one token and for many."""
    model = model_of(tmp_path, name, hidden_size=64, intermediate_size=96, head_dim=16)
    model = model.bfloat16() if in_bf16 else model
    whole = in_parts(native_of(model, Precision.INT8, threads=1), MAX_ROWS)
    for threads, most in ((1, 1), (2, 5), (3, 40)):
        assert np.array_equal(in_parts(native_of(model, Precision.INT8, threads=threads), most), whole), (threads, most)


def test_company_changes_no_bit(tmp_path: Path) -> None:
    native = native_of(model_of(tmp_path, "llama", hidden_size=64), Precision.INT8)
    caches = [native.cache(len(TOKENS)) for _ in range(3)]
    for cache in caches:
        for at in range(0, 480, MAX_ROWS):
            native.step([Part(TOKENS[at : min(at + MAX_ROWS, 480)], cache)])
    alone = native.step([Part(TOKENS[480:481], caches[0])])
    both = native.step([Part(TOKENS[480:481], caches[1]), Part(TOKENS[480:500], caches[2])])
    assert np.array_equal(alone[0], both[0])


@pytest.mark.parametrize("in_bf16", [False, True])
@pytest.mark.parametrize("name", ["llama", "llama-one-key-head", "mistral-100"])
def test_what_is_not_finite_reaches_only_what_sees_it(name: str, in_bf16: bool, tmp_path: Path) -> None:
    """Tokens before it in the same step have their bits, and so has a sequence beside it."""
    model = model_of(tmp_path, name, hidden_size=64, intermediate_size=96, head_dim=16, tie_word_embeddings=False)
    bad, text = 299, [min(token, 298) for token in TOKENS]
    with torch.no_grad():
        model.model.embed_tokens.weight[bad, 3] = float("inf")
    native = native_of(model.bfloat16() if in_bf16 else model, Precision.INT8)
    cache, other, whole = (native.cache(len(TOKENS)) for _ in range(3))
    for at in range(0, 420, 42):
        native.step([Part(text[at : at + 42], whole)])
    cache.begin_with(whole, 400)
    other.begin_with(whole, 300)
    expected = native.step([Part(text[420:440], whole, every=True)])
    native.step([Part(text[400:420], cache)])
    beside = native.step([Part(text[300:304], other, every=True)])
    other.crop(300)
    found = native.step([Part([*text[420:440], bad, bad], cache, every=True), Part(text[300:304], other, every=True)])
    assert np.array_equal(found[:20], expected)
    assert not np.isfinite(found[20:22]).any()
    assert np.array_equal(found[22:], beside)
    cache.crop(440)  # a wrong guess
    again = [native.step([Part(text[440:450], one, every=True)]) for one in (whole, cache)]
    assert np.isfinite(again[0]).all()
    assert np.array_equal(*again)


@pytest.mark.parametrize(("most", "threads"), [(1, 2), (MAX_ROWS, 1)])
def test_a_block_whose_scores_are_all_minus_infinity_weighs_nothing(most: int, threads: int, tmp_path: Path) -> None:
    """The token at 256 begins a block, and is all that it sees of it."""
    model = model_of(tmp_path, "llama", hidden_size=64, head_dim=16, tie_word_embeddings=False)
    low, text = 299, [min(token, 298) for token in TOKENS[:270]]
    text[256] = low
    attention, embedding = model.model.layers[0].self_attn, model.model.embed_tokens.weight
    queries, keys = (linear.weight.view(-1, 16, 64) for linear in (attention.q_proj, attention.k_proj))
    with torch.inference_mode():
        embedding[:, 0], embedding[:, 1], embedding[low, 0] = 0, 1, 1
        queries[:, [7, 15]], keys[:, [7, 15]] = 0, 0  # the pair that turns least
        queries[:, 7, 1], keys[:, 7, 0] = 1e20, -1e20
        expected = model(input_ids=torch.tensor([text])).logits[0]
    assert torch.isfinite(expected).all()
    native = native_of(model, threads=threads)
    cache = native.cache(len(text))
    steps = [native.step([Part(text[at : at + most], cache, every=True)]) for at in range(0, len(text), most)]
    torch.testing.assert_close(torch.from_numpy(np.concatenate(steps)), expected, rtol=2e-4, atol=2e-4)
