"""Each family of models is trained by the fast trainer, and as the plain one trains it; or it is said why not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.train.lora import lora_config
from tests.families import ODD, REPEATABLE, family_folder
from tests.unit.engine.train.train_kit import Job, RecordingHost, read_base, write_columns, write_dataset

# Plain steps along the gradient, so that the adapters differ where a gradient does.
SETTINGS = TrainerSettings(
    max_steps=2,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    learning_rate=0.05,
    optim="sgd",
    lr_scheduler_type="constant",
    warmup_steps=0,
    logging_steps=1,
    max_length=256,
)
# One of each class that people train, and those whose attention differs within a class.
TRAINED = (
    *("bloom", "codegen", "cohere, q and k normed", "cohere 2", "exaone 4", "falcon, new", "falcon, one key", "falcon, alibi"),
    *("gemma", "gemma 2", "gemma 3, capped", "glm", "glm 4", "gpt 2", "gpt neo", "gpt neox", "gpt oss", "gpt-j", "granite"),
    *("mamba", "ministral", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo 2", "olmo 3", "olmoe", "opt", "phi"),
    *("phi 3, longrope", "phi 3, windows", "qwen 2, windows", "qwen 3, windows", "qwen 3 moe", "smollm 3", "stablelm"),
    "starcoder 2",
)
# Made of parts that another one of them has, or that test_trainer.py trains.
SELDOM = {
    *("cohere 2", "falcon, one key", "gemma", "glm", "gpt 2", "gpt neox", "granite", "ministral", "nemotron", "olmo", "olmo 2"),
    *("olmoe", "phi", "phi 3, windows", "qwen 2, windows", "qwen 3 moe", "stablelm", "starcoder 2"),
}
# What has attention, or something beside it, of its own.
PLAIN = {
    "gpt oss": "its attention is given s_aux",
    "mpt": "it cannot take several texts in one row",
    "mamba": "texts in one row come out",
}
_FUSED = {
    **dict.fromkeys(("phi 3, longrope", "phi 3, windows", "codegen"), "qkv_proj"),
    **dict.fromkeys(("gpt neox", "falcon, new", "falcon, one key", "falcon, alibi", "bloom"), "query_key_value"),
    "gpt 2": "c_attn",
    "mpt": "Wqkv",
    "mamba": "in_proj",
}


def family(folder: Path, variant: str) -> Path:
    return family_folder(folder, variant, ODD, **REPEATABLE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", train_rows=11, held_out_rows=0)


@pytest.mark.parametrize(
    "variant", [pytest.param(variant, marks=pytest.mark.long if variant in SELDOM else ()) for variant in TRAINED]
)
@pytest.mark.filterwarnings("ignore:.*_kernel:UserWarning")
def test_as_the_plain_trainer(tmp_path: Path, dataset: Path, variant: str) -> None:
    base = read_base(family(tmp_path / "model", variant))
    by_default = {_FUSED[variant]} if variant in _FUSED else {"q_proj", "v_proj"}
    assert lora_config(LoraSettings(), base.model).target_modules == by_default
    lora = LoraSettings(r=4, lora_dropout=0.0, target_modules=("all-linear",))
    runs = {}
    for name in ("fast", "plain"):
        job, host = Job(tmp_path / name, dataset, lora, dataclasses.replace(SETTINGS, trainer=name)), RecordingHost()
        job.run(base, host)
        runs[name] = job.adapter(), [report.loss for report in host.of("train")], host
    notes = [note.text for note in runs["fast"][2].of("note") if "plain trainer" in note.text]
    assert [PLAIN[variant] in note for note in notes] == [True] if variant in PLAIN else notes == []
    (fast, losses, _), (plain, expected, _) = runs["fast"], runs["plain"]
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, tensor in plain.items():
        assert (fast[name] - tensor).norm() <= 1e-4 * tensor.norm(), name
        assert tensor.abs().max() > 0, name  # every LoRA is reached by the gradient
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tuned = PeftModel.from_pretrained(model, tmp_path / "fast" / "stage" / "output").state_dict()
    for name, tensor in fast.items():
        assert torch.equal(tuned[name.replace(".weight", ".default.weight")], tensor)


def test_in_bf16_the_losses_are_close(tmp_path: Path, dataset: Path) -> None:
    base = read_base(family(tmp_path / "model", "gemma 3"), torch.bfloat16)
    losses = {}
    for name in ("fast", "plain"):
        host = RecordingHost()
        Job(tmp_path / name, dataset, LoraSettings(r=4), dataclasses.replace(SETTINGS, trainer=name)).run(base, host)
        losses[name] = [report.loss for report in host.of("train")]
    assert losses["fast"] == pytest.approx(losses["plain"], rel=0.02)


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("gemma 2", {"gradient_checkpointing": True}),
        ("falcon, alibi", {"gradient_checkpointing": True}),
        pytest.param("gpt-j", {"gradient_checkpointing": True}, marks=pytest.mark.long),
        # transformers lets the packed texts of a Falcon or a BLOOM see each other, so that there is nothing to compare with.
        ("gemma 2", {"packing": True, "max_length": 64}),
        ("phi 3, windows", {"packing": True, "max_length": 64}),
        pytest.param("cohere 2", {"packing": True, "max_length": 64}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_whatever_the_settings_are(tmp_path: Path, dataset: Path, variant: str, changes: dict[str, float]) -> None:
    base = read_base(family(tmp_path / "model", variant))
    adapters = {}
    for name in ("fast", "plain"):
        settings = dataclasses.replace(SETTINGS, trainer=name, **changes)
        job, host = Job(tmp_path / name, dataset, LoraSettings(r=4, lora_dropout=0.0), settings), RecordingHost()
        job.run(base, host)
        assert not [note for note in host.of("note") if "plain trainer" in note.text]
        adapters[name] = job.adapter()
    for name, tensor in adapters["plain"].items():
        assert (adapters["fast"][name] - tensor).norm() <= 1e-4 * tensor.norm(), name


def test_alibi_of_long_texts_is_rounded_as_the_model_rounds_it(tmp_path: Path) -> None:
    dataset = write_columns(tmp_path / "set", text=["sun moon river " * 60, "stone bread " * 60])
    base = read_base(family(tmp_path / "model", "falcon, alibi"))
    adapters, lora = {}, LoraSettings(r=4, lora_dropout=0.0)
    for name in ("fast", "plain"):
        settings = dataclasses.replace(SETTINGS, trainer=name, max_steps=1, gradient_accumulation_steps=1)
        job = Job(tmp_path / name, dataset, lora, dataclasses.replace(settings, max_length=512))
        job.run(base, RecordingHost())
        adapters[name] = job.adapter()
    for name, tensor in adapters["plain"].items():
        assert (adapters["fast"][name] - tensor).norm() <= 1e-4 * tensor.norm(), name
