"""Beginnings that are remembered: never another token than without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig

from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.torch_kv_cache import TorchKvCache
from smolorad.engine.native.kv_cache import KvCache
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, make_adapter, spec

TEXT = "A daemon keeps the model in memory; an adapter is trained on it and answers at once. "


def cache_of(length: int, fill: float = 0.0) -> KvCache:
    cache = KvCache(2, 3, length + 4, 8, np.dtype(np.float32))
    cache.array[...] = fill
    cache.advance(length)
    return cache


def test_the_longest_beginning_of_the_same_key_is_found() -> None:
    prefixes = PrefixCache()
    short, long, other = cache_of(10), cache_of(20), cache_of(30)
    prefixes.keep("", [*range(9), 70], short)
    prefixes.keep("", [*range(15), *range(80, 85)], long)
    prefixes.keep("a@1", list(range(30)), other)
    found = prefixes.find("", list(range(40)))
    assert found is not None
    assert (found.cache, found.length) == (long, 15)
    assert prefixes.find("b@1", list(range(40))) is None
    assert prefixes.find("", list(range(5, 40))) is None


def test_long_texts_have_their_own_and_go_with_their_key() -> None:
    prefixes = PrefixCache()
    short, long = prefixes.of("a@1"), prefixes.of("a@1").of_long_texts()
    long.keep(list(range(20)), cache_of(20))
    assert short.find(list(range(21))) is None
    assert long.find(list(range(21))) is not None
    prefixes.forget("a@1")
    assert len(prefixes) == 0


def test_a_model_that_rotates_long_texts_otherwise_reuses_none_of_the_others(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 2.0,
        "short_factor": [1.0] * 6,
        "long_factor": [3.0] * 6,
        "original_max_position_embeddings": 40,
    }
    base = fp32_base(tiny_model(tmp_path, rope_parameters=rope))
    prefixes = PrefixCache()
    for prompt in (TEXT[:40], TEXT * 3, TEXT[:60], TEXT * 4, TEXT[:41]):
        found = finish(begin(base, spec(prompt, max_tokens=20), prefixes=prefixes))
        alone = finish(begin(base, spec(prompt, max_tokens=20)))
        assert found[0] == alone[0], prompt
    assert found[1].usage.remembered_tokens > 0


def test_one_token_is_always_left_to_compute() -> None:
    prefixes = PrefixCache()
    prefixes.keep("", list(range(20)), cache_of(20))
    found = prefixes.find("", list(range(20)))
    assert found is not None
    assert found.length == 19


def test_bytes_are_bounded_and_the_unused_goes_first() -> None:
    entry = 2 * 2 * 3 * 10 * 8 * 4
    prefixes = PrefixCache(limit_bytes=2 * entry)
    first, second, third = ([n * 100 + i for i in range(10)] for n in range(3))
    prefixes.keep("", first, cache_of(10))
    prefixes.keep("", second, cache_of(10))
    assert prefixes.nbytes == 2 * entry
    assert prefixes.find("", [*first, 1]) is not None  # so the second is the one that was not used for longest
    prefixes.keep("", third, cache_of(10))
    assert prefixes.nbytes == 2 * entry
    assert prefixes.find("", [*second, 1]) is None
    assert prefixes.find("", [*first, 1]) is not None
    prefixes.keep("", [*range(1000, 1100)], cache_of(100))
    assert len(prefixes) == 0


def test_what_goes_on_takes_the_place_of_its_beginning() -> None:
    prefixes = PrefixCache()
    prefixes.keep("", list(range(10)), cache_of(10))
    prefixes.keep("", list(range(20)), cache_of(20))
    assert len(prefixes) == 1
    prefixes.keep("a@1", list(range(20)), cache_of(20))
    prefixes.forget("a@1")
    assert len(prefixes) == 1
    assert prefixes.find("a@1", list(range(20))) is None


def test_what_has_little_of_its_own_makes_room() -> None:
    prefixes = PrefixCache()
    instructions = list(range(160))
    for question in range(5):
        prefixes.keep("", [*instructions, *range(1000 * question, 1000 * question + 20)], cache_of(180))
    assert len(prefixes) == 1
    prefixes.keep("", [*instructions, *range(9000, 9040)], cache_of(200))
    assert len(prefixes) == 1
    prefixes.keep("", [*instructions, *range(8000, 8005)], cache_of(165))
    assert len(prefixes) == 2  # the other one's last 40 are a fifth of it
    found = prefixes.find("", [*instructions, *range(9000, 9050)])
    assert found is not None
    assert found.length == 200


def test_a_copy_does_not_change_with_what_it_was_taken_from() -> None:
    prefixes = PrefixCache()
    kept = cache_of(12, 3.0)
    prefixes.keep("", list(range(12)), kept)
    found = prefixes.find("", [*range(10), 99, 98])
    assert found is not None
    mine = KvCache(2, 3, 30, 8, np.dtype(np.float32))
    mine.begin_with(found.cache, found.length)
    kept.array[...] = 0.0
    assert mine.length == 10
    assert (mine.array[..., :10, :] == 3.0).all()


def test_what_is_kept_takes_no_room_for_what_might_have_followed() -> None:
    prefixes = PrefixCache()
    roomy = KvCache(2, 3, 5000, 8, np.dtype(np.float32))
    roomy.array[...] = 3.0
    roomy.advance(20)
    prefixes.keep("", list(range(20)), roomy)
    found = prefixes.find("", [*range(20), 99])
    assert found is not None
    assert isinstance(found.cache, KvCache)
    assert found.cache.array.nbytes == prefixes.nbytes
    assert (found.cache.array == 3.0).all()


def test_caches_that_are_no_whole_record_are_not_kept() -> None:
    prefixes = PrefixCache()
    prefixes.keep("", list(range(20)), TorchKvCache(LlamaConfig(num_hidden_layers=0)))  # which keeps nothing
    prefixes.keep("", list(range(20)), TorchKvCache(LlamaConfig()))  # nor this one, whose layers wait
    windows = TorchKvCache(MistralConfig(num_hidden_layers=1, sliding_window=30))
    windows.cache.update(torch.zeros(1, 2, 20, 8), torch.zeros(1, 2, 20, 8), 0)
    prefixes.keep("", list(range(20)), windows)
    assert len(prefixes) == 0


@pytest.fixture(scope="module", params=["llama", "gpt_neox", "gemma2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return fp32_base(tiny_model(tmp_path_factory.mktemp("model"), request.param))


@given(
    turns=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10), st.text("abc de", max_size=12)), min_size=2, max_size=5)
)
@settings(max_examples=8)
def test_under_random_edits_no_token_differs(model: BaseModel, turns: list[tuple[int, int, str]]) -> None:
    prefixes = PrefixCache()
    text = TEXT
    for at, gone, new in turns:
        text = text[:at] + new + text[at + gone :]
        asked = spec(text, max_tokens=8)
        _, plain = finish(begin(model, asked))
        _, remembered = finish(begin(model, asked, prefixes=prefixes))
        assert remembered.token_ids == plain.token_ids


def test_a_conversation_computes_only_what_is_new(tmp_path: Path) -> None:
    base, prefixes = fp32_base(tiny_model(tmp_path)), PrefixCache()
    first = finish(begin(base, spec(TEXT * 3, max_tokens=8), prefixes=prefixes))[1]
    assert first.usage.remembered_tokens == 0
    again = finish(begin(base, spec(TEXT * 3, max_tokens=8), prefixes=prefixes))[1]
    assert again.usage.remembered_tokens == again.usage.prompt_tokens - 1
    assert again.token_ids == first.token_ids
    on = finish(begin(base, spec(TEXT * 3 + "And then", max_tokens=8), prefixes=prefixes))[1]
    assert on.usage.remembered_tokens >= first.usage.prompt_tokens - 4


def test_an_adapter_has_its_own(tmp_path: Path) -> None:
    base, prefixes = fp32_base(tiny_model(tmp_path / "base")), PrefixCache()
    adapter = AdapterRegistry(base).attach("a@1", make_adapter(tmp_path / "base", tmp_path / "adapter"))
    asked = spec(TEXT, max_tokens=8)
    finish(begin(base, asked, prefixes=prefixes))
    plain = finish(begin(base, asked, adapter=adapter))[1]
    found = finish(begin(base, asked, adapter=adapter, key="a@1", prefixes=prefixes))[1]
    assert found.usage.remembered_tokens == 0
    assert found.token_ids == plain.token_ids
