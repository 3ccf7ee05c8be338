"""What an adapter's config may say: as PEFT computes it, or refused in one sentence; never a bug."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from smolora.common.adapter_config import CONFIG, WEIGHTS
from smolorad.domain import LoraSettings
from smolorad.engine.adapters import pattern_time
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.runtime.errors import to_smolora_error
from smolorad.engine.train.lora import lora_config
from smolorad.engine.worker.adapter_check import check_adapter
from smolorad.engine.worker.merge import merge
from smolorad.errors import Internal, InvalidRequest, SmoloraError, UnsupportedModel
from smolorad.jobs.peft_folder import read_lora
from tests.examples import examples
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, generated_by_transformers, make_adapter, plain_model, spec

PROMPT = "The quick brown fox"


@pytest.fixture(scope="module")
def sound(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the tiny llama, which tests copy."""
    return make_adapter(llama_folder, tmp_path_factory.mktemp("sound") / "adapter")


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(sound, tmp_path / "adapter")


def changed(folder: Path, **changes: Any) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def by_peft(model: Path, adapter: Path, base: BaseModel) -> list[int]:
    theirs = PeftModel.from_pretrained(plain_model(model), adapter).eval()
    return generated_by_transformers(theirs, base.tokenizer, PROMPT, max_new_tokens=24, do_sample=False)


def by_us(base: BaseModel, adapter: Path) -> list[int]:
    attached = AdapterRegistry(base).attach("a@1", adapter)
    return list(finish(begin(base, spec(PROMPT, max_tokens=24), attached))[1].token_ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": 16.5},
        {"lora_alpha": 0.25},
        {"lora_alpha": -3},
        {"lora_alpha": 0},
        {"lora_alpha": 16.5, "use_rslora": True},
        {"alpha_pattern": {"q_proj": 2.5, r".*\.1\..*v_proj": 0.75}},
        {"rank_pattern": {"never": 1_000, "nor_this": 8}},
        {"r": 60_000, "rank_pattern": {"q_proj": 4, "v_proj": 4}},
        {"use_rslora": None, "rank_pattern": None, "exclude_modules": None, "lora_bias": None},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": r"(?i)model\.layers\.\d\.self_attn\.[QV]_PROJ"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
def test_what_peft_takes_answers_as_peft_does(
    changes: dict[str, Any], llama: BaseModel, llama_folder: Path, adapter: Path
) -> None:
    ours = by_us(llama, changed(adapter, **changes))
    # PEFT stumbles over null where we take its default.
    kept = {name: value for name, value in json.loads((adapter / CONFIG).read_text()).items() if value is not None}
    (adapter / CONFIG).write_text(json.dumps(kept))
    assert ours == by_peft(llama_folder, adapter, llama)
    assert read_lora(adapter)[1] == check_adapter(llama_folder, "tiny", adapter)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"r": 0}, "DAMAGED"),
    ({"r": -4}, "DAMAGED"),
    ({"r": "4"}, "DAMAGED"),
    ({"r": True}, "DAMAGED"),
    ({"r": 4.0}, "DAMAGED"),
    ({"r": None}, "DAMAGED"),
    ({"r": 10**30}, "DAMAGED"),
    ({"lora_alpha": "8"}, "DAMAGED"),
    ({"lora_alpha": None}, "DAMAGED"),
    ({"lora_alpha": float("inf")}, "DAMAGED"),
    ({"lora_alpha": float("nan")}, "DAMAGED"),
    ({"lora_alpha": 10**400}, "DAMAGED"),
    ({"lora_alpha": [8]}, "DAMAGED"),
    ({"lora_dropout": 2}, "DAMAGED"),
    ({"lora_dropout": -0.1}, "DAMAGED"),
    ({"target_modules": [1, 2]}, "DAMAGED"),
    ({"target_modules": {"q_proj": 1}}, "DAMAGED"),
    ({"target_modules": "(("}, "DAMAGED"),
    ({"target_modules": ["\ud800"]}, "DAMAGED"),
    ({"exclude_modules": "q[", "target_modules": ["q_proj"]}, "DAMAGED"),
    ({"modules_to_save": "lm_head"}, "DAMAGED"),
    ({"modules_to_save": [["lm_head"]]}, "DAMAGED"),
    ({"alpha_pattern": {"((": 3}}, "DAMAGED"),
    ({"alpha_pattern": {"q_proj": "3"}}, "DAMAGED"),
    ({"alpha_pattern": [3]}, "DAMAGED"),
    ({"rank_pattern": {"q_proj": 2.5}}, "DAMAGED"),
    ({"rank_pattern": {"q_proj": 0}}, "DAMAGED"),
    ({"rank_pattern": {"*": 4}}, "DAMAGED"),
    ({"layers_to_transform": [-1]}, "DAMAGED"),
    ({"layers_to_transform": "1"}, "DAMAGED"),
    ({"layers_to_transform": [2**40]}, "DAMAGED"),
    ({"bias": "some"}, "DAMAGED"),
    ({"bias": ["all"]}, "DAMAGED"),
    ({"use_dora": "yes"}, "DAMAGED"),
    ({"use_rslora": 1}, "DAMAGED"),
    ({"ensure_weight_tying": "true"}, "DAMAGED"),
    ({"task_type": "POETRY"}, "DAMAGED"),
    ({"auto_mapping": nested(900)}, "DAMAGED"),
    ({"of_a_later_version": nested(60)}, "DAMAGED"),
    ({"of_a_later_version": nested(40)}, "UNSUPPORTED_MODEL"),
    ({"init_lora_weights": 7}, "DAMAGED"),
    ({"init_lora_weights": "pissa"}, "UNSUPPORTED_MODEL"),
    ({"init_lora_weights": "loftq"}, "UNSUPPORTED_MODEL"),
    ({"peft_type": "lora"}, "UNSUPPORTED_MODEL"),
    ({"peft_type": ["LORA"]}, "UNSUPPORTED_MODEL"),
    ({"trainable_token_indices": [1, 2]}, "UNSUPPORTED_MODEL"),
    ({"trainable_token_indices": {"embed_tokens": [1]}}, "UNSUPPORTED_MODEL"),
    ({"target_parameters": ["mlp.w"]}, "UNSUPPORTED_MODEL"),
    ({"use_qalora": True}, "UNSUPPORTED_MODEL"),
    ({"layer_replication": [[0, 1]]}, "UNSUPPORTED_MODEL"),
    ({"of_a_later_version": 1}, "UNSUPPORTED_MODEL"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_value_that_is_no_setting_is_refused_at_import_and_at_attach(
    changes: dict[str, Any], reason: str, llama: BaseModel, adapter: Path
) -> None:
    changed(adapter, **changes)
    for use in (lambda: read_lora(adapter), lambda: AdapterRegistry(llama).attach("a@1", adapter)):
        with pytest.raises(SmoloraError) as refused:
            use()
        assert refused.value.reason == reason
        assert len(refused.value.message) < 600
        assert "\n" not in refused.value.message


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"r": ' * 100_000, "[]", "7", '{"r": 1' + "0" * 5000 + "}", "\x00"])
def test_a_config_that_is_no_config(text: str, llama: BaseModel, adapter: Path) -> None:
    (adapter / CONFIG).write_text(text)
    for use in (lambda: read_lora(adapter), lambda: AdapterRegistry(llama).attach("a@1", adapter)):
        with pytest.raises(SmoloraError) as refused:
            use()
        assert refused.value.reason in ("DAMAGED", "UNSUPPORTED_MODEL")


@pytest.mark.parametrize("changes", [{"r": 8}, {"r": 50_000}, {"rank_pattern": {"q_proj": 50_000}}, {"r": 2}], ids=str)
def test_a_rank_that_the_weights_have_not(changes: dict[str, Any], llama: BaseModel, llama_folder: Path, adapter: Path) -> None:
    changed(adapter, **changes)
    for use in (lambda: check_adapter(llama_folder, "tiny", adapter), lambda: AdapterRegistry(llama).attach("a@1", adapter)):
        with pytest.raises(SmoloraError, match="lora_A") as refused:
            use()
        assert refused.value.reason == "WRONG_BASE"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from(["", "q_proj", "lm_head", "embed_tokens", "model", "((", "*", "all-linear", "none", "LORA", "a/b", ".*"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["q_proj", "((", ".*", "a"]), inner, max_size=3)
    ),
    max_leaves=4,
)
NAMES = sorted(set(LoraConfig().to_dict()) | {"of_a_later_version"})


@settings(max_examples=examples(300))
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=2))
def test_no_value_is_a_bug(
    llama: BaseModel, llama_folder: Path, sound: Path, tmp_path_factory: pytest.TempPathFactory, changes: Any
) -> None:
    root = tmp_path_factory.getbasetemp()
    shutil.rmtree(root / "mutated", ignore_errors=True)
    adapter = changed(Path(shutil.copytree(sound, root / "mutated")), **changes)

    def verdict(use: Any) -> str:
        try:
            use()
        except Exception as error:  # noqa: BLE001, as the engine's loop contains them
            return to_smolora_error(error).reason
        return ""

    attached = verdict(lambda: AdapterRegistry(llama).attach("a@1", adapter))
    assert attached != Internal.reason
    assert verdict(lambda: check_adapter(llama_folder, "tiny", adapter)) == attached
    assert verdict(lambda: read_lora(adapter)) in (attached, "")


TYING: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("architecture", ["llama", pytest.param("qwen3", marks=pytest.mark.long)])
@pytest.mark.parametrize("lora", TYING, ids=str)
def test_weight_tying_answers_and_merges_as_with_peft(lora: dict[str, Any], architecture: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", architecture, tie_word_embeddings=True)
    base = fp32_base(model)
    alone = list(finish(begin(base, spec(PROMPT, max_tokens=24)))[1].token_ids)
    adapter = make_adapter(model, tmp_path / "adapter", ensure_weight_tying=True, **lora)
    assert by_us(base, adapter) == by_peft(model, adapter, base) != alone
    assert list(finish(begin(base, spec(PROMPT, max_tokens=24)))[1].token_ids) == alone
    assert check_adapter(model, "tiny", adapter) > 0
    done = merge(model, adapter, tmp_path / "merged")
    assert done.proof.greedy_agreement == 1.0
    ids = base.tokenizer(PROMPT, return_tensors="pt")
    theirs = PeftModel.from_pretrained(plain_model(model), adapter).eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain_model(tmp_path / "merged")(**ids).logits, theirs(**ids).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_began_with_eva_is_a_plain_one(tmp_path: Path) -> None:
    """PEFT saves how the beginning was computed, and the ranks that came of it."""
    model = tiny_model(tmp_path / "model")
    base = fp32_base(model)
    adapter = make_adapter(model, tmp_path / "adapter", rank_pattern={"q_proj": 2})
    begun = LoraConfig(init_lora_weights="eva", eva_config=EvaConfig()).to_dict()
    changed(adapter, init_lora_weights="eva", eva_config=begun["eva_config"])
    assert by_us(base, adapter) == by_peft(model, adapter, base)
    assert check_adapter(model, "tiny", adapter) > 0


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::peft.utils.warning.PeftWarning")
def test_what_peft_cannot_merge_is_told_in_one_sentence(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    adapter = make_adapter(model, tmp_path / "adapter", lora_bias=True)
    base = fp32_base(model)
    assert by_us(base, adapter) == by_peft(model, adapter, base)
    with pytest.raises(UnsupportedModel, match="lora_bias"):
        merge(model, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "raised", [NotImplementedError("no merge"), TypeError("no merge"), KeyError("no merge"), RuntimeError("no merge")]
)
def test_whatever_peft_raises_while_it_merges(
    raised: Exception, llama_folder: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise raised

    monkeypatch.setattr("peft.tuners.lora.layer.Linear.merge", fail)
    with pytest.raises(UnsupportedModel, match="no merge"):
        merge(llama_folder, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("fault", ["other shapes", "NaN", "a weight missing", "other architecture"])
def test_a_base_that_is_not_in_memory_tells_what_does_not_fit(fault: str, llama_folder: Path, tmp_path: Path) -> None:
    made_for = llama_folder
    if fault == "other shapes":
        made_for = tiny_model(tmp_path / "other", hidden_size=64, intermediate_size=128)
    elif fault == "other architecture":
        made_for = tiny_model(tmp_path / "other", "gpt2")
    targets = ["c_attn"] if fault == "other architecture" else ["q_proj"]
    adapter = make_adapter(made_for, tmp_path / "adapter", target_modules=targets)
    weights = load_file(adapter / WEIGHTS)
    if fault == "NaN":
        next(iter(weights.values()))[0, 0] = float("nan")
    elif fault == "a weight missing":
        weights.popitem()
    save_file(weights, adapter / WEIGHTS)
    with pytest.raises(SmoloraError) as refused:
        check_adapter(llama_folder, "tiny", adapter)
    assert refused.value.reason == ("NOT_FINITE" if fault == "NaN" else "WRONG_BASE")


def test_an_adapter_of_a_model_that_was_trained_with_peft_alone(llama: BaseModel, llama_folder: Path, tmp_path: Path) -> None:
    model = get_peft_model(plain_model(llama_folder), LoraConfig(r=2, lora_alpha=3, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    assert AdapterRegistry(llama).attach("a@1", tmp_path / "adapter").parameters == check_adapter(
        llama_folder, "tiny", tmp_path / "adapter"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "architecture", ["gpt_neox", *(pytest.param(one, marks=pytest.mark.long) for one in ("qwen2", "bamba"))]
)
@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"modules_to_save": ["HEAD"]},
        {"layers_to_transform": [1]},
        {"target_modules": ["EMBED", "LINEAR"]},
        {"target_modules": "all-linear", "exclude_modules": ["LINEAR"]},
    ],
    ids=str,
)
def test_a_base_that_is_not_in_memory_takes_what_the_loaded_one_takes(
    lora: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    neox = architecture == "gpt_neox"
    words = {
        "HEAD": "embed_out" if neox else "lm_head",
        "EMBED": "embed_in" if neox else "embed_tokens",
        "LINEAR": "query_key_value" if neox else "q_proj",
    }
    lora = {
        name: [words.get(one, one) for one in value] if isinstance(value, list) else value
        for name, value in ({"target_modules": ["LINEAR"]} | lora).items()
    }
    model = tiny_model(tmp_path / "model", architecture)
    adapter = make_adapter(model, tmp_path / "adapter", **lora)
    attached = AdapterRegistry(fp32_base(model)).attach("a@1", adapter)
    assert check_adapter(model, "tiny", adapter) == attached.parameters


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": r"([\w.]+)+x"},
        {"target_modules": r".*q_proj", "exclude_modules": r"(.*.*)*!"},
        {"rank_pattern": {r"([\w.]+)*!": 4}},
        {"alpha_pattern": {r"(([\w.]+)*)*!": 4}},
        {"modules_to_save": [r"([\w.]*)+!"]},
    ],
    ids=str,
)
def test_a_pattern_that_takes_for_ever_is_refused(
    changes: dict[str, Any], llama: BaseModel, llama_folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pattern_time, "_LIMIT_S", 0.1)
    changed(adapter, **changes)
    with pytest.raises(UnsupportedModel, match="takes too long to match"):
        AdapterRegistry(llama).attach("a@1", adapter)
    with pytest.raises(UnsupportedModel, match="takes too long to match"):
        check_adapter(llama_folder, "tiny", adapter)


def test_a_training_s_pattern_that_takes_for_ever_is_refused(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_time, "_LIMIT_S", 0.1)
    settings = LoraSettings(target_modules=("q_proj",), rank_pattern={r"([\w.]+)+!": 4})
    with pytest.raises(InvalidRequest, match=r"lora\.rank_pattern: .* takes too long to match"):
        lora_config(settings, plain_model(llama_folder))
