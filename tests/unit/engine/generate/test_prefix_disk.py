"""Prompts whose keys and values come from the disk: the answer that they have in memory, to the last bit."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smolorad.domain import Device, Dtype, GenerateOutcome, GenerateSpec, KvDtype, Precision
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.generate import prefix_identity
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.prefix_identity import identity, open_store
from smolorad.engine.generate.prefix_store import PrefixStore
from smolorad.engine.generate.prefix_writer import PrefixWriter, StoredPrefixes
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native.kv_cache import KvCache
from tests.families import family_folder
from tests.tiny import tiny_model
from tests.unit.engine.kit import finish, fp32_base, load, make_adapter, native_of, plain_model, spec

TEXT = "A daemon keeps the model in memory; an adapter is trained on it and answers at once. "
ROOM = 2**28


class Asked:
    """One process after another, so to speak: each `ask` has a memory of its own, unless it is given one."""

    def __init__(self, base: BaseModel, folder: Path) -> None:
        self.base = base
        store = open_store(base, folder, ROOM)
        assert store is not None
        self.store: PrefixStore = store
        self._writer = PrefixWriter()

    def ask(
        self, asked: GenerateSpec, memory: PrefixCache | None = None, adapter: Adapter | None = None
    ) -> tuple[GenerateOutcome, KvCache]:
        """The outcome, and the keys and values."""
        lora = adapter.native.lora if adapter is not None and adapter.native is not None else None
        stored = StoredPrefixes(self.store, self._writer, lora.fingerprint if lora is not None else "")
        prefixes = (PrefixCache() if memory is None else memory).of("a" if adapter else "", stored)
        request = GenerationRequest(1, self.base, asked, adapter=adapter, prefixes=prefixes, arrived=0.0)
        outcome = finish(request)[1]
        self._writer.flush(30.0)
        return outcome, request._sequence._cache


def check(asked: Asked, prompt: str, adapter: Adapter | None = None) -> None:
    """From the disk a prompt has the keys, values and tokens that it has from memory; with half of it in memory, the tokens.

    Half a prompt's keys may differ in their last bits from those of the whole one, which is computed in larger steps.
    """
    memory = PrefixCache()
    first, _ = asked.ask(spec(prompt, max_tokens=4), memory, adapter)
    longer = spec(prompt + TEXT[:30], max_tokens=12)
    request = GenerationRequest(1, asked.base, longer, adapter=adapter, prefixes=memory.of("a" if adapter else ""), arrived=0.0)
    warm = finish(request)[1]
    expected = request._sequence._cache
    stored, cache = asked.ask(longer, None, adapter)
    assert stored.token_ids == warm.token_ids
    assert stored.usage.remembered_tokens == warm.usage.remembered_tokens > first.usage.prompt_tokens - 4
    assert cache.length == expected.length
    assert (cache.array[..., : cache.length, :] == expected.array[..., : cache.length, :]).all()
    half = PrefixCache()
    asked.ask(spec(prompt[: len(prompt) // 2], max_tokens=2), half, adapter)
    mixed, _ = asked.ask(longer, half, adapter)
    assert mixed.token_ids == warm.token_ids
    assert mixed.usage.remembered_tokens >= warm.usage.remembered_tokens


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("llama", {}),
        ("gemma 2", {}),
        ("gpt 2", {}),
        ("falcon, alibi", {}),
        ("phi 3, windows", {}),
        ("qwen 3 moe", {}),
        ("llama", {"precision": Precision.INT4}),
        ("llama", {"precision": Precision.INT8, "dtype": Dtype.BFLOAT16}),
    ],
)
def test_families_and_number_formats(variant: str, changes: dict[str, Any], tmp_path: Path) -> None:
    base = load(family_folder(tmp_path / "model", variant), **{"device": Device.CPU, "dtype": Dtype.FLOAT32} | changes)
    check(Asked(base, tmp_path / "prefixes"), TEXT * 11)


@pytest.mark.parametrize("kv_dtype", KvDtype)
def test_keys_and_values_in_other_formats(kv_dtype: KvDtype, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    native = native_of(plain_model(folder), threads=1, kv_dtype=kv_dtype)
    base = dataclasses.replace(fp32_base(folder), native=native)
    check(Asked(base, tmp_path / "prefixes"), TEXT * 11)
    assert Asked(fp32_base(folder), tmp_path / "prefixes").ask(spec(TEXT * 11))[0].usage.remembered_tokens == 0


def test_texts_that_the_model_rotates_as_long_ones(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 6, "long_factor": [3.0] * 6, "original_max_position_embeddings": 90}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, **factors}
    asked = Asked(fp32_base(tiny_model(tmp_path / "model", rope_parameters=rope)), tmp_path / "prefixes")
    short, long = TEXT * 2, TEXT * 7  # half of it is long, too
    check(asked, long)
    assert asked.ask(spec(short, max_tokens=2))[0].usage.remembered_tokens == 0
    check(asked, short)
    outgrown = spec(short, max_tokens=100)
    assert asked.ask(outgrown)[0].token_ids == finish(plain(asked.base, outgrown))[1].token_ids


def plain(base: BaseModel, asked: GenerateSpec) -> GenerationRequest:
    return GenerationRequest(1, base, asked, prefixes=PrefixCache().of(""), arrived=0.0)


def test_each_adapter_has_its_own(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    asked = Asked(fp32_base(folder), tmp_path / "prefixes")
    first, again, other = (
        AdapterRegistry(asked.base).attach("a", make_adapter(folder, tmp_path / name, seed=seed, **more))
        for name, seed, more in (("1", 1, {}), ("2", 1, {}), ("3", 1, {"lora_alpha": 9}))
    )
    check(asked, TEXT * 11, first)
    prompt = spec(TEXT * 11, max_tokens=8)
    assert asked.ask(prompt, adapter=again)[0].usage.remembered_tokens > 100
    for adapter in (other, None):
        assert asked.ask(prompt, adapter=adapter)[0].usage.remembered_tokens == 0


def test_no_other_weights_settings_or_program_have_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "model")
    base = fp32_base(folder)
    assert base.native is not None
    found = [identity(base.fingerprint, base.native), identity("other", base.native)]
    assert identity(base.fingerprint, base.native) == found[0]
    for change in ({"dtype": Dtype.BFLOAT16}, {"rope": 2e4}):
        model = tiny_model(tmp_path / "rope", rope_parameters={"rope_type": "default", "rope_theta": 2e4})
        other = load(model if "rope" in change else folder, device=Device.CPU, dtype=change.get("dtype", Dtype.FLOAT32))
        assert other.native is not None
        found.append(identity(base.fingerprint, other.native))
    with monkeypatch.context() as patch:
        patch.setattr(base.native._library, "build", "decode-another")
        found.append(identity(base.fingerprint, base.native))
    copy = tmp_path / "engine"
    shutil.copytree(Path(prefix_identity.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(prefix_identity.smolorad.engine, "__file__", str(copy / "__init__.py"))
    assert identity(base.fingerprint, base.native) == found[0]
    with (copy / "native" / "decode.c").open("a") as source:
        source.write("\n")
    found.append(identity(base.fingerprint, base.native))
    assert len(set(found)) == len(found)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(fp32_base(tiny_model(tmp_path / "model")), tmp_path / "prefixes")


def test_what_memory_has_no_room_for_is_written(asked: Asked) -> None:
    small = PrefixCache(limit_bytes=1000)
    asked.ask(spec(TEXT * 11, max_tokens=4), small)
    assert len(small) == 0
    assert asked.ask(spec(TEXT * 11, max_tokens=4))[0].usage.remembered_tokens > 100


def test_damage_costs_time_alone(asked: Asked, tmp_path: Path) -> None:
    prompt = spec(TEXT * 11, max_tokens=12)
    first, cache = asked.ask(prompt)
    for path in (tmp_path / "prefixes").glob("*/*"):
        content = np.fromfile(path, np.uint8)
        content[len(content) // 2] ^= 1
        content.tofile(path)
    again, other = asked.ask(prompt)
    assert again.usage.remembered_tokens == 0
    assert again.token_ids == first.token_ids
    assert (other.array[..., : cache.length, :] == cache.array[..., : cache.length, :]).all()
    found = [asked.ask(prompt)[0].usage.remembered_tokens for _ in range(3)]  # each finds the next damaged file
    assert found[-1] == first.usage.prompt_tokens - 1


def test_a_model_that_torch_computes_has_none(tmp_path: Path) -> None:
    base = fp32_base(tiny_model(tmp_path / "model", "mamba"))
    assert open_store(base, tmp_path / "prefixes", ROOM) is None
    assert open_store(fp32_base(tiny_model(tmp_path / "llama")), tmp_path / "prefixes", 0) is None
    assert not (tmp_path / "prefixes").exists()
    (tmp_path / "prefixes").write_text("a file")
    assert open_store(fp32_base(tmp_path / "llama"), tmp_path / "prefixes", ROOM) is None
