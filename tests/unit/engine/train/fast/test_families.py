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
from tests.tiny import tiny_model
from tests.unit.engine.train.fast.families import FAMILIES, PLAIN
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
_FUSED = {
    "phi3": "qkv_proj",
    "phi3_longrope": "qkv_proj",
    "gpt2": "c_attn",
    "codegen": "qkv_proj",
    "mpt": "Wqkv",
    "mamba": "in_proj",
}
_KEYED = dict.fromkeys(("gpt_neox", "falcon", "falcon_7b", "falcon_rw", "bloom"), "query_key_value")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", train_rows=11, held_out_rows=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:.*_kernel:UserWarning")
def test_as_the_plain_trainer(tmp_path: Path, dataset: Path, family: str) -> None:
    base = read_base(tiny_model(tmp_path / "model", **FAMILIES[family]))
    by_default = {_FUSED[family]} if family in _FUSED else {_KEYED[family]} if family in _KEYED else {"q_proj", "v_proj"}
    assert lora_config(LoraSettings(), base.model).target_modules == by_default
    lora = LoraSettings(r=4, lora_dropout=0.0, target_modules=("all-linear",))
    runs = {}
    for name in ("fast", "plain"):
        job, host = Job(tmp_path / name, dataset, lora, dataclasses.replace(SETTINGS, trainer=name)), RecordingHost()
        job.run(base, host)
        runs[name] = job.adapter(), [report.loss for report in host.of("train")], host
    notes = [note.text for note in runs["fast"][2].of("note") if "plain trainer" in note.text]
    assert [PLAIN[family] in note for note in notes] == [True] if family in PLAIN else notes == []
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
    base = read_base(tiny_model(tmp_path / "model", **FAMILIES["gemma3_text"]), torch.bfloat16)
    losses = {}
    for name in ("fast", "plain"):
        host = RecordingHost()
        Job(tmp_path / name, dataset, LoraSettings(r=4), dataclasses.replace(SETTINGS, trainer=name)).run(base, host)
        losses[name] = [report.loss for report in host.of("train")]
    assert losses["fast"] == pytest.approx(losses["plain"], rel=0.02)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gemma2", {"gradient_checkpointing": True}),
        ("falcon_rw", {"gradient_checkpointing": True}),
        ("gptj", {"gradient_checkpointing": True}),
        # transformers lets the packed texts of a Falcon or a BLOOM see each other, so that there is nothing to compare with.
        ("gemma2", {"packing": True, "max_length": 64}),
        ("phi3", {"packing": True, "max_length": 64}),
        ("cohere2", {"packing": True, "max_length": 64}),
    ],
    ids=str,
)
def test_whatever_the_settings_are(tmp_path: Path, dataset: Path, family: str, changes: dict[str, float]) -> None:
    base = read_base(tiny_model(tmp_path / "model", **FAMILIES[family]))
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
    base = read_base(tiny_model(tmp_path / "model", **FAMILIES["falcon_rw"]))
    adapters, lora = {}, LoraSettings(r=4, lora_dropout=0.0)
    for name in ("fast", "plain"):
        settings = dataclasses.replace(SETTINGS, trainer=name, max_steps=1, gradient_accumulation_steps=1)
        job = Job(tmp_path / name, dataset, lora, dataclasses.replace(settings, max_length=512))
        job.run(base, RecordingHost())
        adapters[name] = job.adapter()
    for name, tensor in adapters["plain"].items():
        assert (adapters["fast"][name] - tensor).norm() <= 1e-4 * tensor.norm(), name
