"""Views share every tensor with the base, and the base never notices them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from smolorad.domain import Device, Dtype
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.model.base_model import BaseModel
from tests.tiny import ARCHITECTURES, tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, make_adapter, spec


def pointers(model: Any) -> list[int]:
    return [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_view_has_modules_of_its_own_over_the_same_tensors(architecture: str, tmp_path: Path) -> None:
    base = fp32_base(tiny_model(tmp_path, architecture))
    view = base.view()
    assert pointers(view) == pointers(base.model)
    assert not {id(module) for module in view.modules()} & {id(module) for module in base.model.modules()}
    assert view.config is not base.model.config


def test_a_view_with_its_own_biases(tmp_path: Path) -> None:
    base = fp32_base(tiny_model(tmp_path, "qwen2"))
    view = base.view(own_biases=True)
    for (name, ours), theirs in zip(view.named_parameters(), base.model.parameters(), strict=True):
        assert (ours.data_ptr() == theirs.data_ptr()) is not name.endswith("bias")
        assert torch.equal(ours, theirs)
    assert any(name.endswith("bias") for name, _ in view.named_parameters())


def test_training_a_view_and_attaching_adapters_leave_the_base_as_it_was(llama_folder: Path, tmp_path: Path) -> None:
    base = fp32_base(llama_folder)
    before, copies = pointers(base.model), [p.clone() for p in base.model.parameters()]
    answer = finish(begin(base, spec("The quick", max_tokens=10)))[1].token_ids
    adapters = AdapterRegistry(dataclasses.replace(base, native=None))  # whose way needs no view
    attached = [adapters.attach(f"a@{i}", make_adapter(llama_folder, tmp_path / str(i), seed=i)) for i in (1, 2)]

    trained = get_peft_model(base.view(), LoraConfig(r=4, target_modules=["q_proj"]))
    trained.train()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    ids = torch.tensor([[5, 6, 7, 8]])
    for _ in range(2):
        trained(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    assert pointers(base.model) == before
    assert all(torch.equal(p, copy) for p, copy in zip(base.model.parameters(), copies, strict=True))
    assert not any(type(module).__module__.startswith("peft") for module in base.model.modules())
    assert not base.model.training
    assert finish(begin(base, spec("The quick", max_tokens=10)))[1].token_ids == answer
    shared = set(before)
    for adapter in attached:
        own = [p for n, p in adapter.runner.model.named_parameters() if "lora_" not in n]
        assert {p.data_ptr() for p in own} <= shared


def test_what_others_are_told(llama: BaseModel) -> None:
    told = llama.describe(1.5)
    parameters = sum(p.numel() for p in llama.model.parameters())
    assert (told.name, told.architecture, told.device, told.dtype) == ("tiny", "llama", Device.CPU, Dtype.FLOAT32)
    assert (told.parameters, told.weight_bytes, told.context_length) == (parameters, 4 * parameters, 512)
    assert told.has_chat_template
    assert told.load_s == 1.5
    assert len(told.fingerprint) == 64
