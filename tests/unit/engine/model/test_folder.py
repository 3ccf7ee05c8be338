"""What a model folder tells, and which folders are none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from smolorad import publish
from smolorad.domain import ModelFacts
from smolorad.engine.model.folder import ModelFolder
from smolorad.errors import Damaged, SmoloraError, UnsupportedModel
from tests.tiny import tiny_model


def inspect(folder: Path, **more: Any) -> ModelFacts:
    return ModelFolder.open(folder, **more).inspect()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("facts") / "model")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def sharded(model: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(model, tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder, max_shard_size="50KB")
    return folder


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_parameters_are_counted_as_torch_counts_them(architecture: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / architecture, architecture)
    told = inspect(folder)
    assert told.architecture == architecture
    assert told.parameters == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())


def test_tied_weights_and_buffers_count_once_or_not_at_all(folder: Path) -> None:
    before = inspect(folder).parameters
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(tensors, folder / "model.safetensors")
    assert inspect(folder).parameters == before


def test_the_fingerprint_is_of_the_weights_alone(folder: Path, model: Path) -> None:
    edit(folder / "config.json", architectures=["Other"])
    (folder / "adapter_model.safetensors").write_bytes(b"not ours")
    assert inspect(folder).fingerprint == inspect(model).fingerprint
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert inspect(folder).fingerprint != inspect(model).fingerprint


def test_shards(sharded: Path, model: Path) -> None:
    assert len(ModelFolder.open(sharded).weights) > 2
    assert inspect(sharded).parameters == inspect(model).parameters


def test_a_flipped_byte_of_a_published_model_is_seen(model: Path, tmp_path: Path) -> None:
    stage = Path(shutil.copytree(model, tmp_path / "stage"))
    publish.publish(stage, tmp_path / "models" / "m", {})
    weights = tmp_path / "models" / "m" / "model.safetensors"
    assert inspect(weights.parent) == inspect(model)
    with weights.open("r+b") as f:
        f.seek(-3, 2)
        f.write(b"\x55")
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        inspect(weights.parent)


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as f:
        f.truncate(size)


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no folder": (lambda f: shutil.rmtree(f), "NOT_FOUND", "absolute path"),
    "no config": (lambda f: (f / "config.json").unlink(), "UNSUPPORTED_MODEL", r"no config\.json"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "DAMAGED", r"config\.json"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "DAMAGED", "no JSON object"),
    "no architecture": (lambda f: (f / "config.json").write_text("{}"), "UNSUPPORTED_MODEL", "model_type"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "UNSUPPORTED_MODEL", r"no model\.safetensors"),
    "pickles": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "UNSUPPORTED_MODEL",
        r"pickles.*save_pretrained",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "UNSUPPORTED_MODEL", r"copy tokenizer\.json"),
    "own model code": (
        lambda f: edit(f / "config.json", auto_map={"AutoModelForCausalLM": "m.M"}),
        "UNSUPPORTED_MODEL",
        r'allow_remote_code = \["owner/name"\]',
    ),
    "own tokenizer code": (
        lambda f: edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["m.M", None]}),
        "UNSUPPORTED_MODEL",
        r'allow_remote_code = \["owner/name"\]',
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_model(fault: str, folder: Path) -> None:
    spoil, reason, says = FAULTS[fault]
    spoil(folder)
    with pytest.raises(SmoloraError, match=says) as caught:
        inspect(folder, name="owner/name")
    assert caught.value.reason == reason


@pytest.mark.parametrize("size", [0, 4, 8, 50, 100_000])
def test_weights_that_are_cut_short(size: int, folder: Path) -> None:
    cut(folder / "model.safetensors", size)
    with pytest.raises(Damaged, match="download the model again"):
        inspect(folder)


def test_code_that_is_allowed(folder: Path, model: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "m.M"})
    assert inspect(folder, trust_remote_code=True) == inspect(model)


def test_a_missing_shard(sharded: Path) -> None:
    first = ModelFolder.open(sharded).weights[0].path
    first.unlink()
    with pytest.raises(Damaged, match=first.name):
        inspect(sharded)


def test_an_index_that_names_what_is_not_there(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    shard = next(iter(placed.values()))
    edit(index, weight_map=placed | {"model.layers.9.weight": shard})
    with pytest.raises(Damaged, match=r"layers\.9"):
        inspect(sharded)
    edit(index, weight_map=placed | {"model.layers.9.weight": "../elsewhere.safetensors"})
    with pytest.raises(Damaged, match="elsewhere"):
        inspect(sharded)
    edit(index, weight_map={})
    with pytest.raises(Damaged, match="lists no weights"):
        inspect(sharded)


def test_an_adapters_folder_names_the_command_that_imports_it(tmp_path: Path) -> None:
    folder = tmp_path / "my adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=f"smolora-client adapters import '{folder}' --name"):
        ModelFolder.open(folder)
