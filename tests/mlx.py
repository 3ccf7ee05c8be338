"""Model folders as mlx-lm writes them, quantised by code that shares nothing with what reads them.

Written after mlx-lm 0.32 and MLX 0.32: what those write of every family that they know was read, and every number was the same.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families import Sizes, family_folder

# Four times the hidden size, which MLX's GPT-NeoX takes for granted, and so do its groups of 64.
SIZES = Sizes(hidden=64, inner=128, heads=4, kv_heads=2, expert=64)


def packed(numbers: NDArray[np.integer[Any]], bits: int) -> Tensor:
    """Rows of numbers as rows of U32, each number's lowest bit first."""
    of_numbers = np.unpackbits(numbers.astype(np.uint8)[..., np.newaxis], axis=-1, count=bits, bitorder="little")
    rows = of_numbers.reshape(*numbers.shape[:-1], -1)
    return torch.from_numpy(np.packbits(rows, axis=-1, bitorder="little").view(np.uint32).copy())


@dataclass(frozen=True)
class Quantized:
    """A weight as MLX stores it, and the numbers that are meant."""

    stored: dict[str, Tensor]  # weight, scales, biases
    meant: Tensor


def quantized(weight: Tensor, bits: int, group_size: int, dtype: torch.dtype = torch.float32) -> Quantized:
    """A weight in the mode `affine`."""
    groups = weight.float().unflatten(-1, (-1, group_size))
    low, high = groups.amin(-1), groups.amax(-1)
    biases, scales = low.to(dtype), ((high - low) / (2**bits - 1)).clamp(min=1e-3).to(dtype)
    wide_scales, wide_biases = scales.float().unsqueeze(-1), biases.float().unsqueeze(-1)
    numbers = ((groups - wide_biases) / wide_scales).round().clamp(0, 2**bits - 1)
    meant = (numbers * wide_scales + wide_biases).flatten(-2)
    return Quantized(
        {"weight": packed(numbers.flatten(-2).numpy().astype(np.int64), bits), "scales": scales, "biases": biases}, meant
    )


@dataclass(frozen=True)
class MlxFolder:
    """A quantised folder, and the plain one whose weights are what it means."""

    path: Path
    plain: Path


def mlx_folder(
    path: Path,
    variant: str = "llama, tied",
    *,
    bits: int = 4,
    group_size: int = 32,
    dtype: torch.dtype = torch.float32,
    modules: Mapping[str, Any] = {},  # how some are packed, in MLX's names
    **changes: Any,
) -> MlxFolder:
    """A tiny model of a family, quantised, with a plain one beside it."""
    plain = family_folder(path.with_name(f"{path.name}-plain"), variant, SIZES, **changes)
    shutil.copytree(plain, path)
    tensors = load_file(plain / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    stored: dict[str, Tensor] = {}
    for called, names, stack in _as_mlx_calls(tensors, config["model_type"]):
        weight = stack([tensors[name] for name in names])
        own = modules.get(module := called.removesuffix(".weight"), {})
        if own is False or weight.ndim < 2 or not called.endswith(".weight") or weight.shape[-1] % group_size:
            stored[called] = weight = weight.to(dtype)
        else:
            made = quantized(weight, own.get("bits", bits), own.get("group_size", group_size), dtype)
            weight = made.meant
            stored |= {f"{module}.{part}": tensor for part, tensor in made.stored.items()}
        _put_back(tensors, names, weight, stack)
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    save_file({name: one.contiguous() for name, one in stored.items()}, path / "model.safetensors", metadata={"format": "mlx"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(stored, "model.safetensors")}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    quantization = {"group_size": group_size, "bits": bits, "mode": "affine", **modules}
    (path / "config.json").write_text(json.dumps(config | {"quantization": quantization, "quantization_config": quantization}))
    return MlxFolder(path, plain)


Stack = Callable[[list[Tensor]], Tensor]


def _one(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _transposed(tensors: list[Tensor]) -> Tensor:
    return tensors[0].T


def _as_mlx_calls(tensors: Mapping[str, Tensor], model_type: str) -> list[tuple[str, list[str], Stack]]:
    """MLX's name of each tensor, which tensors of transformers it is, and how it is made of them."""
    found: dict[str, tuple[list[str], Stack]] = {}
    for name in tensors:
        called, how = name, _one
        if (expert := re.fullmatch(r"(.+)\.experts\.\d+\.(\w+)\.weight", name)) is not None:
            kind = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(expert[2], expert[2])
            called, how = f"{expert[1]}.switch_mlp.{kind}.weight", torch.stack
        elif model_type == "gpt2":
            called = "model." + name.removeprefix("transformer.")
            how = _transposed if re.search(r"(c_attn|c_proj|c_fc)\.weight$", name) else _one
        elif model_type == "gpt_neox":
            called = "model." + name.removeprefix("gpt_neox.").replace("layers.", "h.")
        found.setdefault(called, ([], how))[0].append(name)
    at = re.compile(r"\.experts\.(\d+)\.")
    for names, _ in found.values():
        names.sort(key=lambda name: int(one[1]) if (one := at.search(name)) else 0)
    return [(called, names, how) for called, (names, how) in found.items()]


def _put_back(tensors: dict[str, Tensor], names: list[str], weight: Tensor, stack: Stack) -> None:
    parts = [weight] if stack is _one else [weight.T] if stack is _transposed else list(weight)
    for name, part in zip(names, parts, strict=True):
        tensors[name] = part.float().contiguous()
