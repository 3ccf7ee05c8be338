"""Adapters: equal to PEFT's own, side by side, and refused with a reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from smolora.common.adapter_config import CONFIG, WEIGHTS
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.worker.adapter_check import check_adapter
from smolorad.engine.worker.merge import merge
from smolorad.errors import Damaged, NotFinite, NotFound, SmoloraError, UnsupportedModel, WrongBase
from smolorad.publish import MANIFEST, publish
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, generated_by_transformers, make_adapter, plain_model, spec
from tests.unit.engine.train.train_kit import Job, write_dataset

TARGETS = {
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "down_proj"],
    "mistral": ["k_proj"],
    "gpt2": ["c_attn"],
    "gpt_neox": ["query_key_value"],
}


def answered(base: BaseModel, adapter: Adapter | None = None) -> tuple[int, ...]:
    return finish(begin(base, spec("The quick brown fox", max_tokens=24), adapter))[1].token_ids


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("architecture", TARGETS)
def test_answers_as_peft_does(architecture: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", architecture)
    base = fp32_base(folder)
    adapter = make_adapter(folder, tmp_path / "adapter", target_modules=TARGETS[architecture])
    theirs = PeftModel.from_pretrained(plain_model(folder), adapter).eval()
    expected = generated_by_transformers(theirs, base.tokenizer, "The quick brown fox", max_new_tokens=24, do_sample=False)
    attached = AdapterRegistry(base).attach("a@1", adapter)
    assert list(answered(base, attached)) == expected
    assert answered(base) != tuple(expected)
    assert attached.parameters == sum(tensor.numel() for tensor in load_file(adapter / WEIGHTS).values())


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_rslora": True, "r": 8},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"layers_to_transform": [1]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
def test_every_shape_of_lora_answers_as_peft_does(lora: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "qwen2")
    base = fp32_base(folder)
    before = [p.clone() for p in base.model.parameters()]
    adapter = make_adapter(folder, tmp_path / "adapter", **lora)
    theirs = PeftModel.from_pretrained(plain_model(folder), adapter).eval()
    expected = generated_by_transformers(theirs, base.tokenizer, "The quick brown fox", max_new_tokens=24, do_sample=False)
    assert list(answered(base, AdapterRegistry(base).attach("a@1", adapter))) == expected
    assert all(torch.equal(p, copy) for p, copy in zip(base.model.parameters(), before, strict=True))


def test_two_side_by_side_each_equal_their_solo_run(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    adapters = AdapterRegistry(llama)
    models = [adapters.attach(f"a@{i}", make_adapter(llama_folder, tmp_path / str(i), seed=i)) for i in (1, 2)]
    alone = [answered(llama, model) for model in (*models, None)]
    assert len(set(alone)) == 3
    answers = [begin(llama, spec("The quick brown fox", max_tokens=24), model) for model in (*models, None)]
    while any(answer.outcome is None for answer in answers):
        for answer in answers:
            if answer.outcome is None:
                answer.step()
    assert [answer.outcome.token_ids for answer in answers if answer.outcome] == alone


def test_the_least_recently_asked_for_goes_first(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    folder = make_adapter(llama_folder, tmp_path / "a")
    adapters = AdapterRegistry(llama, limit=2)
    first = adapters.attach("a@1", folder)
    adapters.attach("a@2", folder)
    assert adapters.attach("a@1", folder) is first
    adapters.attach("a@3", folder)
    assert adapters.keys() == ("a@1", "a@3")
    adapters.detach("a@1")
    adapters.detach("never@1")
    assert adapters.keys() == ("a@3",)


def test_an_adapter_for_peft_is_read_once(
    llama: BaseModel, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = make_adapter(llama_folder, tmp_path / "adapter", use_dora=True), []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path.name), read(path))[1])
    assert AdapterRegistry(llama).attach("d@1", path).runner is not None
    assert opened.count(WEIGHTS) == 1


def test_attaching_draws_no_random_numbers(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    folder = make_adapter(llama_folder, tmp_path / "a")
    before = torch.get_rng_state()
    AdapterRegistry(llama).attach("a@1", folder)
    assert torch.equal(torch.get_rng_state(), before)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, **changes: Any) -> None:
    weights = load_file(folder / WEIGHTS)
    first = min(weights)
    match changes:
        case {"drop": True}:
            del weights[first]
        case {"widen": True}:
            weights[first] = torch.zeros(weights[first].shape[0], weights[first].shape[1] + 1)
        case {"extra": True}:
            weights["base_model.model.model.norm.weight"] = torch.full((48,), 2.0)
        case {"broken": value}:
            weights[first][0, 0] = value
    save_file(weights, folder / WEIGHTS)


REFUSED: list[tuple[str, Any, type[SmoloraError], str]] = [
    ("no folder", lambda f: (f / CONFIG).unlink(), NotFound, CONFIG),
    ("config cut short", lambda f: (f / CONFIG).write_text("{"), Damaged, "not JSON"),
    ("not a LoRA", lambda f: change_config(f, peft_type="IA3"), UnsupportedModel, "LORA"),
    ("a start that changes the base", lambda f: change_config(f, init_lora_weights="pissa"), UnsupportedModel, "pissa"),
    ("a module to import", lambda f: change_config(f, megatron_config={"a": 1}), UnsupportedModel, "megatron_config"),
    ("hooks", lambda f: change_config(f, alora_invocation_tokens=[1]), UnsupportedModel, "alora_invocation_tokens"),
    ("pickled", lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), UnsupportedModel, "pickle"),
    ("no weights", lambda f: (f / WEIGHTS).unlink(), UnsupportedModel, "safe_serialization"),
    ("weights cut short", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), Damaged, "damaged"),
    ("modules the base lacks", lambda f: change_config(f, target_modules=["c_attn"]), WrongBase, "does not fit"),
    ("a weight missing", lambda f: change_weights(f, drop=True), WrongBase, "has no"),
    ("another shape", lambda f: change_weights(f, widen=True), WrongBase, "needs"),
    ("a weight of the base", lambda f: change_weights(f, extra=True), WrongBase, "no part of it"),
    ("NaN", lambda f: change_weights(f, broken=float("nan")), NotFinite, "not finite"),
    ("infinity", lambda f: change_weights(f, broken=float("inf")), NotFinite, "not finite"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_with_a_reason(
    spoil: Any, error: type[SmoloraError], words: str, llama: BaseModel, llama_folder: Path, tmp_path: Path
) -> None:
    folder = make_adapter(llama_folder, tmp_path / "a")
    spoil(folder)
    adapters = AdapterRegistry(llama)
    with pytest.raises(error, match=words):
        adapters.attach("a@1", folder)
    assert adapters.keys() == ()


def test_a_trained_adapter_answers_though_the_files_of_its_base_are_gone(tmp_path: Path) -> None:
    base = fp32_base(tiny_model(tmp_path / "base"))
    shutil.rmtree(tmp_path / "base")
    job = Job(tmp_path, write_dataset(tmp_path / "rows"))
    job.run(base)
    _, outcome = finish(begin(base, spec("A", max_tokens=3), AdapterRegistry(base).attach("a@1", job.output), "a@1"))
    assert len(outcome.token_ids) == 3


def test_an_adapter_of_another_architecture(llama: BaseModel, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", "llama", num_hidden_layers=3)
    with pytest.raises(WrongBase):
        AdapterRegistry(llama).attach("a@1", make_adapter(other, tmp_path / "a"))


def test_a_published_adapter_of_other_weights_in_the_same_shape(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    stage = make_adapter(llama_folder, tmp_path / "stage")
    publish(stage, tmp_path / "adapters" / "a" / "1", {"base_fingerprint": "0" * 64})
    with pytest.raises(WrongBase, match="other weights"):
        AdapterRegistry(llama).attach("a@1", tmp_path / "adapters" / "a" / "1")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def published(stage: Path, to: Path) -> Path:
    publish(stage, to, {"base_fingerprint": ""})
    return to


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["plain", "by PEFT"])
def test_one_byte_that_changed_since_it_was_published(
    name: str, lora: dict[str, Any], llama: BaseModel, llama_folder: Path, tmp_path: Path
) -> None:
    folder = published(make_adapter(llama_folder, tmp_path / "stage", **lora), tmp_path / "a" / "1")
    assert AdapterRegistry(llama).attach("a@1", folder).parameters
    flip(folder / name)
    with pytest.raises(Damaged, match=f"{name} is not as it was published"):
        AdapterRegistry(llama).attach("a@1", folder)
    with pytest.raises(Damaged, match=f"{name} is not as it was published"):
        check_adapter(llama_folder, "tiny", folder)
    with pytest.raises(Damaged, match=f"{name} is not as it was published"):
        merge(llama_folder, folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    with pytest.raises(Damaged, match="is not as it was published"):
        Job(tmp_path / "job", write_dataset(tmp_path / "rows"), parent=folder).run(llama)
    (folder / MANIFEST).unlink()  # then it is somebody's own folder
    if name == WEIGHTS:
        assert AdapterRegistry(llama).attach("a@1", folder).parameters
