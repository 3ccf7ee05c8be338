"""A training through the daemon and a plain TRL script give one adapter, bit for bit."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

import smolora
from tests.daemon_process import daemon_process
from tests.tiny import CORPUS, tiny_model
from tests.unit.engine.train.train_kit import plain_sft

SETTINGS = {"max_steps": 6, "learning_rate": 1e-2, "gradient_accumulation_steps": 4, "seed": 7}
OUR_DEFAULTS = {"per_device_train_batch_size": 1, "optim": "adamw_torch"}  # the original design's; TRL's own are 8 and fused


@pytest.mark.timeout(180)
def test_the_same_adapter_bit_for_bit(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "llama")
    source = tmp_path / "rows.txt"
    source.write_text("\n".join(f"{i}: {CORPUS[i % len(CORPUS)]}" for i in range(40)), encoding="utf-8")
    with daemon_process(SMOLORA_DTYPE="float32") as daemon, smolora.Client(daemon.socket) as client:
        client.load(model).result()
        dataset = client.prepare("rows", source).result()
        adapter = client.train("rows", "tiny", r=8, lora_alpha=16, lora_dropout=0.1, trainer="plain", **SETTINGS).result()
        ours = load_file(Path(adapter.path) / "adapter_model.safetensors")
        rows = datasets.load_from_disk(dataset.path)["train"]["text"]
    lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
    plain = plain_sft(model, list(rows), tmp_path / "plain", lora, **OUR_DEFAULTS, **SETTINGS)
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
