"""No product that Metal may get wrong is asked of it, by whichever of the trainers: on a stand-in that gets them wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smolorad.domain import Device, Dtype, LoraSettings, TrainerSettings
from smolorad.engine.device_check import kernels as device_kernels
from smolorad.engine.device_check.cpu_comparison import CpuComparison
from smolorad.engine.device_check.gradient import gradient_fault, lora_gradients
from smolorad.engine.device_check.kernels import product_fault, product_notes
from smolorad.engine.model import load_transformers
from smolorad.engine.runtime import short_matmul
from smolorad.engine.runtime.device import Placement
from smolorad.engine.train.fast import kernels, loss
from tests.tiny import tiny_model
from tests.unit.engine.kit import load, plain_model
from tests.unit.engine.runtime.stand_in import StandIn, stand_in
from tests.unit.engine.train.train_kit import Job, RecordingHost, read_base, texts, write_columns

VOCABULARY = 40_003
LONG = 70_001  # inner length: three parts, none as long as another
FEW = 192  # for tests in which everything is long
CUT = short_matmul.splitting_long_products


@pytest.fixture(autouse=True)
def _the_cpu_is_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_matmul, "AFFECTED_DEVICES", MappingProxyType({Device.MPS: "CPU"}))
    monkeypatch.setattr(kernels, "_kernels", lambda dtype: None)  # our own library computes for CPUs alone
    monkeypatch.setattr(loss, "in_tiles", lambda hidden: False)  # so do tiles
    monkeypatch.setattr("smolorad.engine.train.run.trim_memory", lambda device: None)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def metal() -> Iterator[StandIn]:
    with stand_in() as device:
        yield device


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def into_a_view(left: Tensor, right: Tensor) -> Tensor:
    room = torch.zeros(len(left), right.shape[1] + 3, dtype=left.dtype)
    torch.mm(left, right, out=room[:, :-3])
    return room[:, :-3]


def in_place(left: Tensor, right: Tensor) -> Tensor:
    return torch.ones(len(left), right.shape[1], dtype=left.dtype).addmm_(left, right, beta=0.5, alpha=2)


def over_nothing(left: Tensor, right: Tensor) -> Tensor:
    return torch.addmm(torch.full((1, right.shape[1]), torch.nan, dtype=left.dtype), left, right, beta=0)


def batch_in_place(left: Tensor, right: Tensor) -> Tensor:
    added = torch.ones(2, len(left), right.shape[1], dtype=left.dtype)
    return added.baddbmm_(left.expand(2, -1, -1), right.expand(2, -1, -1))


def gradients(left: Tensor, right: Tensor) -> Tensor:
    """Of a linear layer's input, weight and bias, over many outputs and over many rows."""
    x, weight = random(2, 9, 8).to(left.dtype).requires_grad_(), right.clone().requires_grad_()
    bias = torch.zeros(len(weight), dtype=left.dtype, requires_grad=True)
    wide = torch.autograd.grad(F.linear(x, weight[:, :8], bias), (x, weight, bias), left[:18].view(2, 9, -1))
    small = right[:20].t().contiguous().requires_grad_()
    tall = torch.autograd.grad(F.linear(right, small.t()), small, right[:, :20].contiguous())
    return torch.cat([one.flatten().float() / one.abs().max() for one in (*wide, *tall)])


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mm": torch.mm,
    "mm out": into_a_view,
    "bmm": lambda left, right: torch.bmm(left.expand(2, -1, -1), right.expand(2, -1, -1)),
    "matmul of three dimensions": lambda left, right: left.view(2, -1, left.shape[1]) @ right,
    "matmul of four": lambda left, right: left.view(2, 1, -1, left.shape[1]) @ right.expand(2, 3, -1, -1),
    "einsum": lambda left, right: torch.einsum("bik,bkj->jbi", left.view(2, -1, left.shape[1]), right.expand(2, -1, -1)),
    "tensordot": lambda left, right: torch.tensordot(left, right, 1),
    "addmm": lambda left, right: torch.addmm(right[0], left, right, beta=3, alpha=0.5),
    "addmm_": in_place,
    "addmm without what was there": over_nothing,
    "baddbmm": lambda left, right: torch.baddbmm(right[:1], left.expand(2, -1, -1), right.expand(2, -1, -1)),
    "baddbmm_": batch_in_place,
    "addbmm": lambda left, right: torch.addbmm(right[:1], left.expand(2, -1, -1), right.expand(2, -1, -1)),
    "mv": lambda left, right: torch.mv(left, right[:, 0]),
    "addmv": lambda left, right: torch.addmv(right[: len(left), 1], left, right[:, 0], alpha=2),
    "linear": lambda left, right: F.linear(left.view(2, -1, left.shape[1]), right.t(), right[0]),
    "linear of one row": lambda left, right: F.linear(left[0], right.t()),
    "gradients": gradients,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_product_is_cut_and_right(name: str, dtype: torch.dtype) -> None:
    left, right = random(20, LONG).to(dtype) / 100, random(LONG, 20).to(dtype) / 10
    expected = PRODUCTS[name](left.double(), right.double())
    with stand_in() as metal, CUT(Device.MPS):
        got = PRODUCTS[name](left, right)
        assert not metal.long
        assert len(metal.asked) >= 3
    bound = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= bound * expected.abs().max()


def test_short_products_are_computed_as_ever(metal: StandIn) -> None:
    left, right = random(20, 32_704), random(32_704, 20)
    expected = left @ right
    with CUT(Device.MPS):
        assert torch.equal(left @ right, expected)
    assert [inner for _, inner in metal.asked] == [32_704] * 2
    with CUT(Device.CPU), CUT(Device.CUDA):
        random(20, LONG) @ random(LONG, 20)
    assert metal.long


def test_attention_to_many_keys_is_made_of_short_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_matmul, "MAX_INNER_LENGTH", FEW)
    query, key, value = random(1, 2, 40, 16), random(1, 2, 500, 16), random(1, 2, 500, 16)
    expected = F.scaled_dot_product_attention(query, key, value)
    with stand_in(FEW + 1) as metal, CUT(Device.MPS):
        got, _ = torch.ops.aten._scaled_dot_product_attention_math_for_mps(query, key, value)
    assert not metal.long
    assert torch.allclose(got, expected, atol=1e-5)


def test_which_models_ask_for_long_products_without_a_training(tmp_path: Path) -> None:
    wide = {"intermediate_size": 33_000, "num_hidden_layers": 1}
    assert short_matmul.has_long_products(plain_model(tiny_model(tmp_path / "wide", "llama", **wide)))
    for tied in (True, False):
        folder = tiny_model(tmp_path / str(tied), "llama", vocab_size=VOCABULARY, tie_word_embeddings=tied)
        assert not short_matmul.has_long_products(plain_model(folder))


SETTINGS = TrainerSettings(
    max_steps=2,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    logging_steps=1,
    save_seconds=0,
    trainer="plain",
)
RUNS: dict[str, dict[str, Any]] = {
    "fast": {"trainer": "fast"},
    "plain": {},
    "packed": {"packing": True, "max_length": 64},
    "checkpointing": {"gradient_checkpointing": True},
    "fast checkpointing": {"trainer": "fast", "gradient_checkpointing": True},
    "pairs": {},
}


def trained(root: Path, base: Any, name: str, lora: LoraSettings) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the reports and of the held-out rows, and the adapter."""
    # A vocabulary that is long is slow to compute; where it is not, rows can be.
    sentences = 1 if base.vocabulary_size == VOCABULARY else 3
    words = [" ".join(texts(sentences, sentences * n)) for n in range(16 if sentences == 1 else 20)]
    if name == "pairs":
        dataset = write_columns(root / "set", 4, prompt=words, chosen=words[1:] + words[:1], rejected=words[2:] + words[:2])
    else:
        dataset = write_columns(root / "set", 4, text=words)
    job, host = Job(root, dataset, lora, dataclasses.replace(SETTINGS, **RUNS[name])), RecordingHost()
    job.run(base, host)
    assert not [note for note in host.of("note") if "plain trainer" in note.text]
    return [event.loss for kind in ("train", "evaluation") for event in host.of(kind)], job.adapter()


def check_near(left: tuple[list[float], dict[str, Tensor]], right: tuple[list[float], dict[str, Tensor]]) -> None:
    assert left[0] == pytest.approx(right[0], rel=1e-4)
    for name, tensor in right[1].items():
        assert (left[1][name] - tensor).norm() <= 1e-2 * tensor.norm(), name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in ("packed", "checkpointing") else ()) for name in RUNS]
)
@pytest.mark.parametrize("everything", [pytest.param(False, marks=pytest.mark.long), True], ids=["vocabulary", "everything"])
def test_a_training_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, everything: bool) -> None:
    """With a vocabulary that is long; and with a limit so low that widths, keys and the tokens of a batch are long as well."""
    limit = short_matmul.MAX_INNER_LENGTH
    changes: dict[str, Any] = {"vocab_size": VOCABULARY}
    if everything:
        limit, changes = FEW, {"intermediate_size": 500}
        monkeypatch.setattr(short_matmul, "MAX_INNER_LENGTH", FEW)
    base = read_base(tiny_model(tmp_path / "model", "llama", **changes))
    lora = LoraSettings(r=16, lora_dropout=0.0, target_modules=("all-linear",))
    expected = trained(tmp_path / "cpu", base, name, lora)
    with stand_in(limit + 1) as metal:
        check_near(trained(tmp_path / "mps", dataclasses.replace(base, device=Device.MPS), name, lora), expected)
    assert metal.asked
    assert not metal.long


@pytest.mark.parametrize("name", ["fast", "plain", "pairs"])
def test_a_training_that_asks_for_them_is_wrong_on_the_stand_in(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above relies on: without the cuts, long products are asked for, in the backward pass too, and spoil it."""
    monkeypatch.setattr("smolorad.engine.train.fast.loss.MAX_INNER_LENGTH", 10**9)
    # Pairs score each of their texts with and without the adapter: a long vocabulary would take five times as long.
    limit, changes = short_matmul.MAX_INNER_LENGTH, {"vocab_size": VOCABULARY}
    if name == "pairs":
        limit, changes = FEW, {"intermediate_size": 500}
    base = read_base(tiny_model(tmp_path / "model", "llama", **changes))
    lora = LoraSettings(r=16, lora_dropout=0.0)
    expected = trained(tmp_path / "cpu", base, name, lora)
    with stand_in(limit + 1) as metal:
        got = trained(tmp_path / "wrong", base, name, lora)
    assert metal.long
    with pytest.raises(AssertionError):
        check_near(got, expected)


def test_modules_that_are_trained_whole_and_other_loras(tmp_path: Path) -> None:
    base = read_base(tiny_model(tmp_path / "model", "llama", vocab_size=VOCABULARY, tie_word_embeddings=False))
    lora = LoraSettings(r=16, lora_dropout=0.0, use_dora=True, modules_to_save=("lm_head", "embed_tokens"))
    expected = trained(tmp_path / "cpu", base, "plain", lora)
    with stand_in() as metal:
        check_near(trained(tmp_path / "mps", dataclasses.replace(base, device=Device.MPS), "plain", lora), expected)
    assert not metal.long


# --- the self-test -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", Dtype)
def test_products_in_parts_pass_and_long_ones_are_told(dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short_matmul, "AFFECTED_DEVICES", MappingProxyType({Device.CPU: "CPU"}))
    monkeypatch.setattr(device_kernels, "AFFECTED_DEVICES", MappingProxyType({Device.CPU: "CPU"}))
    assert product_notes(Device.CPU, dtype) == ()
    with stand_in() as metal:
        assert product_fault(Device.CPU, dtype) == ""
        assert not metal.long
        (note,) = product_notes(Device.CPU, dtype)
        assert metal.long
    assert "in parts" in note


@pytest.mark.parametrize(
    ("kernel", "words"),
    [("mm", "a matrix product"), ("bmm", "a batch"), ("linear", "a linear layer"), ("linear_backward", "gradient")],
)
def test_products_that_are_wrong_even_in_parts_refuse_the_device(kernel: str, words: str) -> None:
    with stand_in(10**9, kernel):  # on a device that is not known for the fault, they are asked for as they are
        fault = product_fault(Device.CPU, Dtype.FLOAT32)
        assert CpuComparison().kernel_fault(Placement(Device.CPU, Dtype.FLOAT32, "eager")) == fault
    assert words in fault
    assert "differs from the CPU's" in fault


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_a_gradient_that_is_wrong_refuses_the_device(architecture: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, architecture, vocab_size=VOCABULARY)
    model = plain_model(folder).requires_grad_(False)
    expected = lora_gradients(model)
    assert expected
    assert gradient_fault(model, Dtype.FLOAT32, expected) == ""
    assert not any(parameter.requires_grad for parameter in model.parameters())
    placement = Placement(Device.CPU, Dtype.FLOAT32)
    assert CpuComparison().move(model, placement)[1] == ""
    with stand_in():  # forward passes agree, so that nothing but the gradient can tell
        assert "training step" in gradient_fault(model, Dtype.FLOAT32, expected)
        with CUT(Device.MPS):
            assert gradient_fault(model, Dtype.FLOAT32, expected) == ""


def test_a_context_longer_than_attention_is_trusted_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path, "gpt_neox", max_position_embeddings=40_000)
    for path in folder.glob("tokenizer_config.json"):
        path.write_text(path.read_text().replace('"model_max_length": 512', '"model_max_length": 40000'))
    assert load(folder, "tiny", dtype=Dtype.FLOAT32).context_length == 40_000
    monkeypatch.setattr(load_transformers, "AFFECTED_DEVICES", MappingProxyType({Device.CPU: "CPU"}))
    base = load(folder, "tiny", dtype=Dtype.FLOAT32)
    assert base.context_length == short_matmul.MAX_INNER_LENGTH
    assert "40,000 tokens is cut to 32,704" in base.notes[-1]
