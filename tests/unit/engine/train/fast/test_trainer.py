"""The fast trainer trains what the plain one trains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smolorad.chat.folder import PARSE_SPECIAL, SPLITS_FILE
from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.train.fast import trainer as fast_trainer
from smolorad.engine.train.fast import yield_points
from smolorad.errors import Cancelled
from tests.tiny import ARCHITECTURES, END, tiny_model
from tests.unit.engine.train.train_kit import (
    Job,
    RecordingHost,
    cancel_at,
    equal,
    read_base,
    weights_of,
    write_columns,
    write_dataset,
)

SETTINGS = TrainerSettings(
    trainer="fast",
    max_steps=5,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    learning_rate=1e-2,
    logging_steps=1,
    eval_steps=2,
)
WITHOUT_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", train_rows=11)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    folder = tmp_path_factory.mktemp("models")
    changes = {"gpt2": WITHOUT_DROPOUT}
    return {name: read_base(tiny_model(folder / name, name, **changes.get(name, {}))) for name in ARCHITECTURES}


def both(
    root: Path, dataset: Path, base: BaseModel, lora: LoraSettings, settings: TrainerSettings = SETTINGS
) -> tuple[tuple[Job, RecordingHost], tuple[Job, RecordingHost]]:
    """A run of each trainer: the fast one, the plain one."""
    runs = []
    for name in ("fast", "plain"):
        job, host = Job(root / name, dataset, lora, dataclasses.replace(settings, trainer=name)), RecordingHost()
        job.run(base, host)
        runs.append((job, host))
    return runs[0], runs[1]


def check_same(fast: tuple[Job, RecordingHost], plain: tuple[Job, RecordingHost], *, near: float = 1e-4) -> None:
    """Losses, gradients and counts of every report, and the adapters."""
    assert not [note for note in fast[1].of("note") if "plain trainer" in note.text]
    for left, right in zip(fast[1].of("train"), plain[1].of("train"), strict=True):
        assert (left.step, left.tokens, left.learning_rate) == (right.step, right.tokens, right.learning_rate)
        assert left.loss == pytest.approx(right.loss, rel=near)
        assert left.grad_norm == pytest.approx(right.grad_norm, rel=50 * near)
    for left, right in zip(fast[1].of("evaluation"), plain[1].of("evaluation"), strict=True):
        assert (left.step, left.rows) == (right.step, right.rows)
        assert left.loss == pytest.approx(right.loss, rel=near)
    theirs = plain[0].adapter()
    assert fast[0].adapter().keys() == theirs.keys()
    for name, tensor in fast[0].adapter().items():
        assert (tensor - theirs[name]).norm() <= 100 * near * theirs[name].norm(), name


# On the others, with all-linear, test_families.py has the two trainers beside each other.
_USUAL = {("llama", ()), ("llama", ("all-linear",)), ("gpt2", ()), ("gpt_neox", ("all-linear",))}


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        pytest.param(name, targets, id=f"{name}-{id}", marks=() if (name, targets) in _USUAL else pytest.mark.long)
        for id, targets in {"default": (), "all-linear": ("all-linear",)}.items()
        for name in ARCHITECTURES
    ],
)
def test_every_architecture(
    bases: dict[str, BaseModel], dataset: Path, tmp_path: Path, architecture: str, targets: tuple[str, ...]
) -> None:
    lora = LoraSettings(r=4, lora_dropout=0.0, target_modules=targets)
    check_same(*both(tmp_path, dataset, bases[architecture], lora))


@pytest.mark.parametrize(
    "lora",
    [
        LoraSettings(use_dora=True),
        pytest.param(LoraSettings(use_rslora=True), marks=pytest.mark.long),
        LoraSettings(bias="all"),
        pytest.param(LoraSettings(bias="lora_only"), marks=pytest.mark.long),
        LoraSettings(modules_to_save=("norm", "input_layernorm")),
        LoraSettings(modules_to_save=("up_proj",)),
        LoraSettings(init_lora_weights="olora"),
        LoraSettings(target_modules=("embed_tokens", "q_proj", "down_proj")),
        LoraSettings(layers_to_transform=(1,), rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 4}),
    ],
    ids=lambda lora: repr(lora).removeprefix("LoraSettings"),
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:.*tied.*:UserWarning")
def test_whatever_the_adapter_is(bases: dict[str, BaseModel], dataset: Path, tmp_path: Path, lora: LoraSettings) -> None:
    base = bases["qwen2"]  # has biases
    before = weights_of(base)
    check_same(*both(tmp_path, dataset, base, dataclasses.replace(lora, lora_dropout=0.0)))
    assert weights_of(base) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"packing": True, "max_length": 32},
        {"gradient_checkpointing": True},
        {"max_length": 16},
        {"num_train_epochs": 2.5, "per_device_train_batch_size": 3},
        {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 1},
    ],
    ids=str,
)
def test_whatever_the_settings_are(
    bases: dict[str, BaseModel], dataset: Path, tmp_path: Path, changes: dict[str, float]
) -> None:
    check_same(
        *both(tmp_path, dataset, bases["llama"], LoraSettings(lora_dropout=0.0), dataclasses.replace(SETTINGS, **changes))
    )


def test_however_a_step_is_cut(
    bases: dict[str, BaseModel], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_trainer, "BUDGET", 25)
    fast, plain = both(tmp_path, dataset, bases["llama"], LoraSettings(lora_dropout=0.0))
    check_same(fast, plain)
    assert fast[1].yields > SETTINGS.max_steps + 4 * 1  # more micro-steps than steps


def test_in_bf16_the_losses_are_close_to_those_of_the_plain_trainer(dataset: Path, tmp_path: Path) -> None:
    base = read_base(tiny_model(tmp_path / "model"), torch.bfloat16)
    fast, plain = both(tmp_path, dataset, base, LoraSettings(lora_dropout=0.0))
    assert {tensor.dtype for tensor in fast[0].adapter().values()} == {torch.float32}
    for left, right in zip(fast[1].of("train"), plain[1].of("train"), strict=True):
        assert left.loss == pytest.approx(right.loss, rel=0.02)


def test_dropout_is_drawn_anew_but_as_the_seed_says(bases: dict[str, BaseModel], dataset: Path, tmp_path: Path) -> None:
    runs = {}
    for name, share in (("none", 0.0), ("one", 0.5), ("same", 0.5)):
        runs[name] = Job(tmp_path / name, dataset, LoraSettings(r=4, lora_dropout=share), SETTINGS)
        runs[name].run(bases["llama"])
    assert equal(runs["one"].adapter(), runs["same"].adapter())
    assert not equal(runs["one"].adapter(), runs["none"].adapter())


@pytest.mark.parametrize(
    ("work", "checkpointing"),
    [
        pytest.param(0.0, False, id="at every layer"),
        pytest.param(0.0, True, id="at every layer, checkpointing"),
        pytest.param(yield_points.WORK_FLOP, False, id="between micro-steps"),
        pytest.param(yield_points.WORK_FLOP, True, id="between micro-steps, checkpointing", marks=pytest.mark.long),
    ],
)
def test_generation_meanwhile_changes_nothing(
    bases: dict[str, BaseModel],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: float,
    checkpointing: bool,
) -> None:
    base = bases["llama"]
    settings = dataclasses.replace(SETTINGS, gradient_checkpointing=checkpointing)

    def answer(count: int) -> None:
        ids = torch.tensor([[1, 2, 3, count]])
        base.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=3, pad_token_id=0)
        torch.randn(3)

    silent, disturbed = (Job(tmp_path / name, dataset, trainer=settings) for name in ("silent", "disturbed"))
    silent.run(base)
    monkeypatch.setattr(yield_points, "WORK_FLOP", work)
    host = RecordingHost(answer)
    disturbed.run(base, host)
    evaluations, layers, head = 4, 2, 1
    between = SETTINGS.max_steps + evaluations
    if work:
        assert host.yields == between
    else:
        inside = SETTINGS.max_steps * (2 * layers + head) + evaluations * (layers + head)
        assert host.yields >= between + inside
    assert equal(silent.adapter(), disturbed.adapter())


def test_cancelled_in_the_middle_of_a_backward_pass(
    bases: dict[str, BaseModel], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yield_points, "WORK_FLOP", 0.0)
    base = bases["llama"]
    before = weights_of(base)
    host = RecordingHost(cancel_at(2 + 4 + 5))  # the probe, the evaluation, then layer, layer, head and back
    job = Job(tmp_path / "job", dataset, trainer=SETTINGS)
    with pytest.raises(Cancelled):
        job.run(base, host)
    assert host.yields == 2 + 4 + 5
    assert weights_of(base) == before
    job.run(base)
    silent = Job(tmp_path / "silent", dataset, trainer=SETTINGS)
    silent.run(base)
    assert equal(job.adapter(), silent.adapter())


@pytest.mark.parametrize("trainer", ["fast", "plain"])
def test_a_step_and_a_part_of_an_evaluation_without_a_scored_token(
    bases: dict[str, BaseModel], tmp_path: Path, trainer: str
) -> None:
    texts = [END, "sun moon", "river stone", END, "bread"]  # the end of a text alone has nothing to be predicted from
    dataset = write_columns(tmp_path / "set", 2, text=texts)
    splits = dataset / SPLITS_FILE
    splits.write_text(json.dumps(json.loads(splits.read_text()) | {PARSE_SPECIAL: True}))
    one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 1}
    settings = TrainerSettings(trainer=trainer, max_steps=3, logging_steps=1, save_seconds=0, **one)
    host = RecordingHost()
    trained = Job(tmp_path / "job", dataset, trainer=settings).run(bases["llama"], host)
    assert sorted(report.loss > 0 for report in host.of("train")) == [False, True, True]
    assert 0 < trained.eval_loss_after < 100
    assert 0 < trained.eval_loss_before < 100


# Whose class is no "ForCausalLM", for which Trainer counts the first tokens of rows too; those whose values are narrower than
# their queries; and one of the usual kind.
COUNTED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("c_attn", WITHOUT_DROPOUT),
    "openai-gpt": ("c_attn", WITHOUT_DROPOUT),
    "ctrl": ("Wq", WITHOUT_DROPOUT),
    "xlm": ("q_lin", {"causal": True, "dropout": 0.0, "attention_dropout": 0.0}),
    "bert": ("query", {"is_decoder": True, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "bert-generation": ("query", {"is_decoder": True, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    "deepseek_v3": ("o_proj", {}),
    "minicpm3": ("o_proj", {}),
    "llama": ("q_proj", {}),
}
# Alike to gpt2, to bert, and to deepseek_v3.
_SELDOM_COUNTED = {"openai-gpt", "ctrl", "bert-generation", "minicpm3"}


@pytest.mark.parametrize("trainer", ["fast", "plain"])
@pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=pytest.mark.long if name in _SELDOM_COUNTED else ()) for name in COUNTED]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_first_step_has_the_held_out_loss_of_its_rows(tmp_path: Path, architecture: str, trainer: str) -> None:
    target, changes = COUNTED[architecture]
    base = read_base(tiny_model(tmp_path / "model", architecture, **changes))
    rows = ["sun", "moon river", "stone bread water letter winter garden keeper", "light", "tower salt sun moon", "river"]
    dataset = write_columns(tmp_path / "set", 6, text=rows * 2)
    settings = TrainerSettings(
        trainer=trainer,
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        per_device_eval_batch_size=2,
        logging_steps=1,
        max_length=256,
    )
    host = RecordingHost()
    trained = Job(tmp_path / "job", dataset, LoraSettings(r=4, lora_dropout=0.0, target_modules=(target,)), settings).run(
        base, host
    )
    (report,) = host.of("train")
    assert report.loss == pytest.approx(trained.eval_loss_before, rel=1e-4)


def test_a_model_whose_own_loss_takes_no_count_trains_alike(
    bases: dict[str, BaseModel], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases["llama"]
    monkeypatch.setattr(type(base.model), "accepts_loss_kwargs", False, raising=False)
    monkeypatch.setattr(fast_trainer, "BUDGET", 25)
    fast, plain = both(tmp_path, dataset, base, LoraSettings(r=4, lora_dropout=0.0))
    check_same(fast, plain)
