"""Folders of quantised weights are called what they are, wherever a model is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.worker.fetch import fetch
from smolorad.engine.worker.merge import merge
from smolorad.engine.worker.progress import no_progress
from smolorad.errors import UnsupportedModel
from tests.tiny import tiny_model
from tests.unit.engine.kit import load, make_adapter

MLX = {"group_size": 32, "bits": 4}


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pack(folder: Path, change: Callable[[dict[str, torch.Tensor], str], None]) -> None:
    """Has the weights of one linear layer replaced."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors, "model.layers.0.self_attn.q_proj")
    save_file(tensors, folder / "model.safetensors")


def as_mlx(tensors: dict[str, torch.Tensor], layer: str) -> None:
    weight = tensors.pop(f"{layer}.weight")
    tensors[f"{layer}.weight"] = torch.zeros(weight.shape[0], weight.shape[1] // 8, dtype=torch.uint32)
    tensors[f"{layer}.scales"] = tensors[f"{layer}.biases"] = torch.ones(weight.shape[0], 2)
    tensors[f"{layer}.biases"] = tensors[f"{layer}.biases"].clone()


def as_mlx_says(folder: Path) -> None:
    pack(folder, as_mlx)
    change_config(folder, quantization=MLX, quantization_config=MLX)


def as_gptq(tensors: dict[str, torch.Tensor], layer: str) -> None:
    tensors[f"{layer}.qweight"] = torch.zeros_like(tensors.pop(f"{layer}.weight"), dtype=torch.int32)


def as_fp8(tensors: dict[str, torch.Tensor], layer: str) -> None:
    tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"].to(torch.float8_e4m3fn)


def as_int8(tensors: dict[str, torch.Tensor], layer: str) -> None:
    tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"].to(torch.int8)
    tensors[f"{layer}.weight_scale"] = torch.ones(len(tensors[f"{layer}.weight"]), 1)


def as_bitsandbytes(tensors: dict[str, torch.Tensor], layer: str) -> None:
    tensors[f"{layer}.weight"] = torch.zeros(tensors[f"{layer}.weight"].numel() // 2, 1, dtype=torch.uint8)
    tensors[f"{layer}.weight.absmax"] = torch.ones(36)


def as_mxfp4(tensors: dict[str, torch.Tensor], layer: str) -> None:
    tensors[f"{layer}_blocks"] = tensors.pop(f"{layer}.weight").to(torch.uint8)


QUANTISED: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: pack(folder, as_mlx), "MLX"),
    (lambda folder: (pack(folder, as_gptq), change_config(folder, quantization=MLX)), "GPTQ or AWQ"),
    (lambda folder: (as_mlx_says(folder), change_config(folder, model_type="qwen3_next")), "MLX"),
    (lambda folder: pack(folder, as_gptq), "GPTQ or AWQ"),
    (lambda folder: pack(folder, as_fp8), "fp8"),
    (lambda folder: pack(folder, as_int8), "does not name"),
    (lambda folder: pack(folder, as_bitsandbytes), "quantised by bitsandbytes"),
    (lambda folder: pack(folder, as_mxfp4), "MXFP4"),
    (lambda folder: change_config(folder, quantization_config={"load_in_8bit": True}), "bitsandbytes (8 bits)"),
    (lambda folder: change_config(folder, quantization_config={"quant_algo": "NVFP4"}), "ModelOpt"),
    (lambda folder: change_config(folder, quantization_config={"quant_method": ["gptq"]}), "does not name"),
    (lambda folder: change_config(folder, quantization_config={"quant_method": "awq", "w_bit": 4}), "AWQ (4 bits)"),
    (lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 3}), "GPTQ (3 bits)"),
    (lambda folder: change_config(folder, quantization_config={"quant_method": "fp8"}), "fp8"),
    (lambda folder: change_config(folder, quantization_config={"quant_method": "compressed-tensors"}), "compressed-tensors"),
    (
        lambda folder: change_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "bitsandbytes (4 bits)",
    ),
    (lambda folder: change_config(folder, quantization_config={"quant_method": "of_next_year"}), "of_next_year"),
    (lambda folder: change_config(folder, quantization_config={"strange": 1}), "does not name"),
    (lambda folder: change_config(folder, text_config={"quantization": MLX}), "MLX (4 bits)"),
]


@pytest.mark.parametrize(("change", "words"), QUANTISED, ids=[f"{i} {words}" for i, (_, words) in enumerate(QUANTISED)])
def test_what_it_is_and_what_to_load_instead(change: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    adapter = make_adapter(folder, tmp_path / "adapter")
    change(folder)
    for use in (
        lambda: ModelFolder.open(folder, name="mine"),
        lambda: load(folder, "mine"),
        lambda: fetch(str(folder), output=tmp_path / "copy", cache=tmp_path, report=no_progress),
        lambda: merge(folder, adapter, tmp_path / "merged"),
    ):
        with pytest.raises(UnsupportedModel) as refused:
            use()
        assert words in refused.value.message
        assert "load the model that it was made from" in refused.value.message
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "merged").exists()


def test_an_adapter_with_a_copy_of_its_bases_config(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    make_adapter(folder, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match=r"holds an adapter, not a model; .*adapters import"):
        load(folder, "mine")


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_folder_of_gguf(gone: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    (folder / gone).unlink()
    (folder / "tiny-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModel, match=r"as GGUF.*; load (the file by its path|tiny-Q4_K_M\.gguf instead)"):
        load(folder, "mine")


def test_plain_weights_whose_config_says_that_mlx_packed_them(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    expected = load(folder, "mine").parameters
    change_config(folder, quantization=MLX, quantization_config=MLX)
    assert load(folder, "mine").parameters == expected


def test_a_config_that_says_nothing_of_it(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    change_config(folder, quantization_config=None, quantization=None)
    assert load(folder, "mine").parameters > 0
