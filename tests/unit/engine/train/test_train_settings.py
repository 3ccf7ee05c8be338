"""Every setting reaches PEFT or TRL, and one that does not fit the model is refused with what would."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model

from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.shared_view import share
from smolorad.engine.train.lora import adapted_modules, adapted_parameters, linear_names, lora_config, resolved
from smolorad.engine.train.trl_config import Setting, sft_config
from smolorad.errors import InvalidRequest
from tests.families import VARIANTS, family_folder
from tests.tiny import tiny_model
from tests.unit.engine.train.train_kit import read_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    folder = tmp_path_factory.mktemp("models")
    return {name: read_base(tiny_model(folder / name, name)) for name in ("llama", "gpt2", "gpt_neox")}


@pytest.fixture(scope="module")
def llama(bases: dict[str, BaseModel]) -> Any:
    return bases["llama"].model


# A value that is not the default, what PEFT calls it, and what PEFT then holds.
LORA: dict[str, tuple[Any, str, Any]] = {
    "r": (5, "r", 5),
    "lora_alpha": (7, "lora_alpha", 7),
    "lora_dropout": (0.3, "lora_dropout", 0.3),
    "target_modules": (("o_proj",), "target_modules", {"o_proj"}),
    "exclude_modules": (("layers.0.self_attn.q_proj",), "exclude_modules", {"layers.0.self_attn.q_proj"}),
    "bias": ("lora_only", "bias", "lora_only"),
    "use_rslora": (True, "use_rslora", True),
    "use_dora": (True, "use_dora", True),
    "modules_to_save": (("norm",), "modules_to_save", ["norm"]),
    "layers_to_transform": ((1,), "layers_to_transform", [1]),
    "init_lora_weights": ("gaussian", "init_lora_weights", "gaussian"),
    "rank_pattern": ({"q_proj": 3}, "rank_pattern", {"q_proj": 3}),
    "alpha_pattern": ({"v_proj": 3}, "alpha_pattern", {"v_proj": 3}),
}
TRAINER: dict[str, tuple[Any, str, Any]] = {
    "max_steps": (11, "max_steps", 11),
    "num_train_epochs": (2.5, "num_train_epochs", 2.5),
    "per_device_train_batch_size": (3, "per_device_train_batch_size", 3),
    "gradient_accumulation_steps": (5, "gradient_accumulation_steps", 5),
    "learning_rate": (0.5, "learning_rate", 0.5),
    "lr_scheduler_type": ("cosine", "lr_scheduler_type", "cosine"),
    "warmup_steps": (0.1, "warmup_steps", 0.1),
    "optim": ("sgd", "optim", "sgd"),
    "weight_decay": (0.2, "weight_decay", 0.2),
    "adam_beta1": (0.8, "adam_beta1", 0.8),
    "adam_beta2": (0.9, "adam_beta2", 0.9),
    "adam_epsilon": (1e-6, "adam_epsilon", 1e-6),
    "max_grad_norm": (0.0, "max_grad_norm", 0.0),
    "max_length": (99, "max_length", 99),
    "packing": (True, "packing", True),
    "gradient_checkpointing": (True, "gradient_checkpointing", True),
    "neftune_noise_alpha": (5.0, "neftune_noise_alpha", 5.0),
    "seed": (1, "seed", 1),
    "logging_steps": (4, "logging_steps", 4),
    "eval_steps": (6, "eval_steps", 6),
    "per_device_eval_batch_size": (2, "per_device_eval_batch_size", 2),
    "save_steps": (8, "save_steps", 8),
}
# Ours, or another trainer's; test_train.py, test_tokenise.py, test_preference.py and fast/test_trainer.py have their tests.
NOT_TRLS = {
    "eval_rows",
    "save_seconds",
    "trainer",
    "completion_only_loss",
    "assistant_only_loss",
    "early_stopping_patience",
    "beta",
    "sample_prompts",
    "sample_steps",
    "sample_max_tokens",
    "tensorboard",
}


def sft(settings: TrainerSettings, **changes: Any) -> Any:
    return sft_config(settings, setting(settings, **changes))


def setting(settings: TrainerSettings, **changes: Any) -> Setting:
    given = Setting(Path("out"), settings.max_length, evaluates=True, evaluates_first=True, on_cpu=True)
    return dataclasses.replace(given, **changes)


def test_the_tables_have_every_field() -> None:
    assert set(LORA) == {f.name for f in dataclasses.fields(LoraSettings)}
    assert set(TRAINER) | NOT_TRLS == {f.name for f in dataclasses.fields(TrainerSettings)}


@pytest.mark.parametrize("name", LORA)
def test_a_lora_setting_reaches_peft(llama: Any, name: str) -> None:
    value, theirs, expected = LORA[name]
    assert getattr(lora_config(LoraSettings(), llama), theirs) != expected
    settings = LoraSettings(**{name: value})
    config = lora_config(settings, llama)
    assert getattr(config, theirs) == expected
    assert getattr(resolved(settings, config), name) == value


@pytest.mark.parametrize("name", TRAINER)
def test_a_trainer_setting_reaches_trl(name: str) -> None:
    value, theirs, expected = TRAINER[name]
    assert getattr(sft(TrainerSettings()), theirs) != expected
    assert getattr(sft(TrainerSettings(**{name: value})), theirs) == expected


def test_a_step_in_one_batch_has_the_same_rows() -> None:
    settings = TrainerSettings(per_device_train_batch_size=3, gradient_accumulation_steps=4)
    config = sft_config(settings, setting(settings), whole_steps=True)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (12, 1)


def test_epochs_instead_of_steps() -> None:
    assert sft(TrainerSettings(num_train_epochs=2.5)).max_steps == -1


def test_what_we_set_for_every_run() -> None:
    config = sft(TrainerSettings())
    assert (config.bf16, config.fp16, config.use_cpu) == (False, False, True)
    assert config.report_to == []
    assert config.disable_tqdm
    assert not config.logging_nan_inf_filter
    assert config.neftune_noise_alpha is None
    assert config.eval_strategy == "no"
    assert sft(TrainerSettings(eval_steps=5)).eval_strategy == "steps"
    assert sft(TrainerSettings(eval_steps=5), evaluates=False).eval_strategy == "no"


class TestTargets:
    """Which modules are adapted."""

    @pytest.mark.parametrize(
        ("architecture", "expected"),
        [("llama", {"q_proj", "v_proj"}), ("gpt2", {"c_attn"}), ("gpt_neox", {"query_key_value"})],
    )
    def test_by_default(self, bases: dict[str, BaseModel], architecture: str, expected: set[str]) -> None:
        assert lora_config(LoraSettings(), bases[architecture].model).target_modules == expected

    @pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
    def test_all_linear_is_every_linear_module_but_the_head(self, bases: dict[str, BaseModel], architecture: str) -> None:
        model = bases[architecture].model
        config = lora_config(LoraSettings(target_modules=("all-linear",)), model)
        assert config.target_modules == set(linear_names(model))
        assert not {"lm_head", "embed_out"} & config.target_modules

    def test_all_linear_of_one_layer(self, llama: Any) -> None:
        settings = LoraSettings(target_modules=("all-linear",), layers_to_transform=(1,))
        assert {name.split(".")[2] for name in adapted_modules(lora_config(settings, llama), llama)} == {"1"}

    def test_of_an_unknown_model_all_that_are_linear(self, llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("smolorad.engine.train.lora.DEFAULT_TARGETS", ())
        monkeypatch.setattr("smolorad.engine.train.lora.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", {})
        assert lora_config(LoraSettings(), llama).target_modules == set(linear_names(llama))
        monkeypatch.setattr("smolorad.engine.train.lora.linear_names", lambda model: [])
        with pytest.raises(InvalidRequest, match="no default for a llama, which has no linear modules"):
            lora_config(LoraSettings(), llama)

    def test_what_a_mixer_reads_without_a_call_is_no_target(self, tmp_path: Path) -> None:
        mamba = read_base(tiny_model(tmp_path / "mamba", "mamba")).model
        assert lora_config(LoraSettings(), mamba).target_modules == {"in_proj"}
        assert lora_config(LoraSettings(target_modules=("all-linear",)), mamba).target_modules == {"in_proj", "x_proj"}
        for name in ("dt_proj", "out_proj"):
            with pytest.raises(InvalidRequest, match=f"reads the weight of '{name}' itself; choose from in_proj, x_proj"):
                lora_config(LoraSettings(target_modules=(name,)), mamba)

    def test_a_linear_module_in_a_list_is_not_the_layer_of_its_number(self, tmp_path: Path) -> None:
        gemma = read_base(tiny_model(tmp_path, "gemma3n_text")).model
        config = lora_config(LoraSettings(target_modules=("all-linear",)), gemma)
        assert {"altup_projections.0", "q_proj"} <= config.target_modules
        adapted = adapted_modules(config, gemma).values()
        assert all(isinstance(module, torch.nn.Linear) for module in adapted)
        assert adapted_parameters(config, gemma) > 0

    @pytest.mark.parametrize(("architecture", "dense"), [("qwen 3 moe", "layers.1.mlp"), ("deepseek_v3", "layers.0.mlp")])
    def test_what_peft_takes_for_experts_is_no_target(self, tmp_path: Path, architecture: str, dense: str) -> None:
        """Dense layers and shared experts beside a mixture have linear modules whose names the experts' had once."""
        folder = family_folder(tmp_path, architecture) if architecture in VARIANTS else tiny_model(tmp_path, architecture)
        model = read_base(folder).model
        for wanted in ((), ("all-linear",)):
            config = lora_config(LoraSettings(target_modules=wanted), model)
            assert "o_proj" in config.target_modules or not wanted
            assert not config.target_modules & {"gate_proj", "up_proj", "down_proj"}
            assert not get_peft_model(share(model), config).peft_config["default"].target_parameters
        for name in ("gate_proj", "down_proj", f"{dense}.gate_proj"):
            with pytest.raises(InvalidRequest, match=f"PEFT takes '{name}' of a {model.config.model_type} for its experts"):
                lora_config(LoraSettings(target_modules=(name,)), model)


@pytest.mark.parametrize(
    ("field", "settings", "words"),
    [
        ("target_modules", {"target_modules": ("q_prj",)}, "no linear module 'q_prj'; choose from down_proj, gate_proj"),
        ("target_modules", {"target_modules": ("q_proj", "nope")}, "no linear module 'nope'"),
        ("target_modules", {"target_modules": ("",)}, "no linear module ''"),
        ("target_modules", {"target_modules": ("self_attn",)}, "no linear module 'self_attn'"),
        ("target_modules", {"target_modules": ("lm_head",)}, "is the output head"),
        ("target_modules", {"target_modules": ("all-linear", "q_proj")}, "all-linear already means all"),
        ("exclude_modules", {"exclude_modules": ("x_proj",)}, "no module 'x_proj'; it has act_fn, "),
        ("exclude_modules", {"exclude_modules": ("q_proj", "v_proj")}, "leave no target module over"),
        ("modules_to_save", {"modules_to_save": ("head",)}, "no module 'head'; it has .*lm_head"),
        ("layers_to_transform", {"layers_to_transform": (0, 2)}, "no layer 2; it may be 0 to 1"),
        ("layers_to_transform", {"layers_to_transform": (-1,)}, "no layer -1"),
        ("rank_pattern", {"rank_pattern": {"k_proj": 4}}, "'k_proj' matches no target module; they are q_proj, v_proj"),
        ("rank_pattern", {"rank_pattern": {"q_proj": 0}}, "is 0 for 'q_proj'"),
        ("alpha_pattern", {"alpha_pattern": {"(": 4}}, r"'\(' is not a name or a pattern"),
        ("init_lora_weights", {"init_lora_weights": "eva"}, "must be true, gaussian, olora, pissa or pissa_niter_N"),
        ("init_lora_weights", {"init_lora_weights": "pissa", "use_dora": True}, "does not go with use_dora"),
        ("init_lora_weights", {"init_lora_weights": "olora", "use_rslora": True}, "does not go with use_rslora"),
    ],
)
def test_refused(llama: Any, field: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^lora\.{field}: .*{words}") as caught:
        lora_config(LoraSettings(**settings), llama)
    assert [violation.field for violation in caught.value.violations] == [f"lora.{field}"]


@given(name=st.text(max_size=20))
def test_any_name_is_a_module_or_refused(bases: dict[str, BaseModel], name: str) -> None:
    model = bases["llama"].model
    try:
        config = lora_config(LoraSettings(target_modules=(name,)), model)
    except InvalidRequest:
        return
    assert name in {*linear_names(model), "embed_tokens"} or config.target_modules <= set(linear_names(model))
