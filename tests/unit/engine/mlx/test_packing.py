"""Every packing of MLX is read as the numbers that it means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smolorad.engine.mlx import weights as mlx_weights
from smolorad.engine.mlx.settings import read_settings
from smolorad.engine.mlx.weights import MlxWeights
from smolorad.safetensors_file import SafetensorsFile
from tests.mlx import packed, quantized

_ROWS, _COLUMNS = 6, 256


def opened(folder: Path, tensors: dict[str, torch.Tensor], bits: int, group_size: int, mode: str = "affine") -> MlxWeights:
    save_file(tensors, folder / "model.safetensors")
    settings = read_settings({"quantization": {"bits": bits, "group_size": group_size, "mode": mode}}, "mine")
    assert settings is not None
    return MlxWeights.of([SafetensorsFile.open(folder / "model.safetensors", "get it again")], settings, "llama")


def whole(weights: MlxWeights, name: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([piece.reshape(-1) for piece in weights.read(name)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_affine(bits: int, group_size: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx_weights, "_CHUNK", 4 * _COLUMNS)  # pieces of four rows, and the rest
    made = quantized(torch.randn(_ROWS, _COLUMNS, generator=torch.manual_seed(bits)), bits, group_size, dtype)
    weights = opened(tmp_path, {f"a.{part}": tensor for part, tensor in made.stored.items()}, bits, group_size)
    (tensor,) = weights.tensors
    formats = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    assert (tensor.name, tensor.format, tensor.shape) == ("a.weight", formats[dtype], (_ROWS, _COLUMNS))
    assert torch.equal(whole(weights, "a.weight"), made.meant.flatten())


_FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # OCP Microscaling Formats (MX) 1.0, table 5


@pytest.mark.parametrize(("mode", "bits", "group_size"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)])
def test_small_floats(mode: str, bits: int, group_size: int, tmp_path: Path) -> None:
    numbers = torch.arange(_ROWS * _COLUMNS).reshape(_ROWS, _COLUMNS) % 2**bits
    # Every scale that is a number: E4M3 has positive ones from 0 to 126.
    scales = (torch.arange(_ROWS * _COLUMNS // group_size).reshape(_ROWS, -1) % 127).to(torch.uint8)
    values = torch.cat([_FP4, -_FP4])[numbers] if bits == 4 else numbers.to(torch.uint8).view(torch.float8_e4m3fn).float()
    wide = (scales.view(torch.float8_e4m3fn) if mode == "nvfp4" else scales.view(torch.float8_e8m0fnu)).float()
    weights = opened(tmp_path, {"a.weight": packed(numbers.numpy(), bits), "a.scales": scales}, bits, group_size, mode)
    assert weights.tensors[0].format == "BF16"
    expected = (values.unflatten(-1, (-1, group_size)) * wide.unsqueeze(-1)).flatten()
    assert torch.equal(whole(weights, "a.weight").nan_to_num(7.0), expected.nan_to_num(7.0))
