"""Writes weights that are decoded while they are read as safetensors, a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.domain import PhaseProgress
from smolorad.engine.model.decoded_weights import DecodedWeights
from smolorad.engine.runtime.dtypes import STORED, to_bf16, to_fp32
from smolorad.safetensors_file import StoredTensor

_ALIGNMENT = 8  # of the first tensor, as the safetensors library writes


def nbytes_of(weights: DecodedWeights) -> int:
    """The size of the file that `write_safetensors` writes."""
    return len(_header(weights)) + sum(map(_size, weights.tensors))


def write_safetensors(weights: DecodedWeights, path: Path, report: Callable[[PhaseProgress], None]) -> None:
    """Writes every tensor in its format; `report` gets the phase `convert` in bytes, and may raise to stop the work.

    Raises as `DecodedWeights.read`.
    """
    total, done = nbytes_of(weights), 0
    with path.open("wb") as file:
        done += file.write(_header(weights))
        for tensor in weights.tensors:
            for piece in weights.read(tensor.name):
                done += file.write(np.ascontiguousarray(_as(piece, tensor.format)).data.cast("B"))
                report(PhaseProgress("convert", done, total, "bytes"))


def _as(piece: NDArray[Any], format: str) -> NDArray[Any]:
    if format == "BF16":
        return to_bf16(piece)
    return piece if piece.dtype == STORED[format] else to_fp32(piece).astype(STORED[format])


def _size(tensor: StoredTensor) -> int:
    return tensor.count * STORED[tensor.format].itemsize


def _header(weights: DecodedWeights) -> bytes:
    """Length and header (safetensors' README)."""
    entries: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in weights.tensors:
        end = begin + _size(tensor)
        entries[tensor.name] = {"dtype": tensor.format, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    return len(header).to_bytes(8, "little") + header
