"""`adapters import` through a real daemon: what trainers save is taken, what could never answer is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Trainer, TrainingArguments

import smolora
from tests.daemon_process import daemon_process
from tests.tiny import tiny_model
from tests.unit.engine.kit import generated_by_transformers, make_adapter, plain_model

pytestmark = pytest.mark.timeout(300)

PROMPT = "The quick brown fox"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("import") / "model")


@pytest.fixture(scope="module")
def wide(model: Path) -> Path:
    """A model of other shapes."""
    return tiny_model(model.parent / "wide", hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def client(model: Path, wide: Path) -> Iterator[smolora.Client]:
    """A daemon that has both models, and one of them loaded."""
    with daemon_process(SMOLORA_KEEP_ALIVE="-1") as daemon, smolora.Client(daemon.socket) as client:
        client.import_model(wide, "wide").result()
        client.load(model, dtype="float32").result()
        yield client


@pytest.fixture(scope="module")
def trained(model: Path) -> Path:
    """The output folder of a transformers Trainer, its checkpoints in it."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer("In the beginning the small model knew nothing")["input_ids"]
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids}] * 4)
    output = model.parent / "trained"
    settings = TrainingArguments(
        output_dir=str(output),
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=1,
        learning_rate=0.1,
        report_to=[],
        use_cpu=True,
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = Trainer(get_peft_model(plain_model(model), lora), settings, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return output


def by_peft(model: Path, adapter: Path) -> list[int]:
    theirs = PeftModel.from_pretrained(plain_model(model), adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    return generated_by_transformers(theirs, tokenizer, PROMPT, max_new_tokens=16, do_sample=False)


def by_us(client: smolora.Client, adapter: str) -> list[int]:
    answer = client.generate(PROMPT, adapter=adapter, max_tokens=16, temperature=0)
    answer.text()
    assert answer.outcome is not None
    return list(answer.outcome.token_ids)


def test_what_a_trainer_saves_is_imported_and_its_checkpoints_too(client: smolora.Client, model: Path, trained: Path) -> None:
    assert (trained / "training_args.bin").is_file()
    assert (trained / "checkpoint-4" / "optimizer.pt").is_file()
    sent: list[tuple[int, int]] = []
    for folder in (trained, trained / "checkpoint-2"):
        client.import_adapter(folder, "trainer", on_sent=lambda done, total: sent.append((done, total)))
        assert by_us(client, "trainer") == by_peft(model, folder)
        assert sent[-1][1] == sum((folder / name).stat().st_size for name in (CONFIG, WEIGHTS))


def test_a_folder_of_checkpoints_alone_names_them(client: smolora.Client, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("checkpoint-2", "checkpoint-10"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / CONFIG).write_bytes((trained / CONFIG).read_bytes())
    with pytest.raises(smolora.NotFound, match="checkpoint-2, checkpoint-10"):
        client.import_adapter(tmp_path / "run", "checkpoints")


def spoil(folder: Path, fault: str) -> None:
    config, weights = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    match fault:
        case "pickled":
            torch.save(weights, folder / "adapter_model.bin")
            (folder / WEIGHTS).unlink()
        case "NaN":
            weights[min(weights)][0, 0] = float("nan")
            save_file(weights, folder / WEIGHTS)
        case "no rank":
            (folder / CONFIG).write_text(json.dumps(config | {"r": 0}))
        case "unknown setting":
            (folder / CONFIG).write_text(json.dumps(config | {"trainable_token_indices": [1]}))
        case "cut":
            (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7])
        case "another rank":
            (folder / CONFIG).write_text(json.dumps(config | {"r": 7}))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("pickled", smolora.UnsupportedModel),
        ("NaN", smolora.NotFinite),
        ("no rank", smolora.Damaged),
        ("unknown setting", smolora.UnsupportedModel),
        ("cut", smolora.Damaged),
        ("another rank", smolora.WrongBase),
    ],
)
def test_what_could_never_answer_is_not_published(
    fault: str, error: type[smolora.SmoloraError], client: smolora.Client, model: Path, tmp_path: Path
) -> None:
    folder = make_adapter(model, tmp_path / "adapter")
    spoil(folder, fault)
    with pytest.raises(error) as refused:
        client.import_adapter(folder, "never")
    assert "uploads" not in refused.value.message
    assert client.adapters("never") == []


def test_another_base_is_found_out_whether_it_is_loaded_or_not(
    client: smolora.Client, model: Path, wide: Path, tmp_path: Path
) -> None:
    of_model, of_wide = make_adapter(model, tmp_path / "of-model"), make_adapter(wide, tmp_path / "of-wide")
    for folder, base in ((of_wide, ""), (of_model, "wide")):
        with pytest.raises(smolora.WrongBase, match="needs"):
            client.import_adapter(folder, "other", base_model=base)
    assert client.adapters("other") == []
    assert client.import_adapter(of_wide, "of-wide", base_model="wide").base_model == "wide"
    with pytest.raises(smolora.WrongBase) as refused:
        client.generate(PROMPT, adapter="of-wide").text()
    assert "wide" in refused.value.message
    assert str(model) in refused.value.message
    with pytest.raises(smolora.NotFound):
        client.import_adapter(of_model, "other", base_model="nowhere")
    with pytest.raises(smolora.InvalidRequest):
        client.import_adapter(of_model, "No Name")


def test_alphas_with_fractions_stay_as_they_are_also_where_a_training_goes_on(
    client: smolora.Client, model: Path, tmp_path: Path
) -> None:
    wanted: dict[str, Any] = {"lora_alpha": 16.5, "alpha_pattern": {"v_proj": 0.25}}
    folder = make_adapter(model, tmp_path / "adapter", **wanted)
    assert client.import_adapter(folder, "fractions").lora.lora_alpha == 17
    assert by_us(client, "fractions") == by_peft(model, folder)
    (tmp_path / "rows.txt").write_text("\n".join(f"line {number} of a text" for number in range(8)))
    client.prepare("rows", tmp_path / "rows.txt").result()
    further = client.train("rows", "further", parent="fractions", max_steps=1, gradient_accumulation_steps=1).result()
    config = json.loads((Path(further.path) / CONFIG).read_text())
    assert {name: config[name] for name in wanted} == wanted
    assert by_us(client, "further") == by_peft(model, Path(further.path))


def test_an_adapter_that_is_loaded_as_a_model_names_the_command(client: smolora.Client, trained: Path) -> None:
    for use in (lambda: client.load(trained).result(), lambda: client.import_model(trained, "no-model").result()):
        with pytest.raises(smolora.UnsupportedModel, match="smolora-client adapters import"):
            use()
