"""The modules in the files of a model that MLX has quantised: which tensors each is made of, and whether they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.mlx.packing import AFFINE, Packing
from smolorad.engine.mlx.settings import MlxSettings
from smolorad.engine.runtime.dtypes import STORED
from smolorad.errors import Damaged, UnsupportedModel
from smolorad.safetensors_file import SafetensorsFile, StoredTensor

_WORDS, _OCTETS = "U32", "U8"
_ARRAYS = {**STORED, _WORDS: np.dtype(np.uint32), _OCTETS: np.dtype(np.uint8)}
_FORMAT = "BF16"  # in which numbers are written anew where the scales have no format of weights


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor in one of the files, as rows."""

    file: SafetensorsFile
    tensor: StoredTensor

    @property
    def columns(self) -> int:
        """The length of its last dimension."""
        return self.tensor.shape[-1] if self.tensor.shape else 1

    def rows(self, opened: BinaryIO, first: int, count: int) -> NDArray[Any]:
        """Some rows; raises Damaged where the file was changed."""
        found = np.empty((count, self.columns), dtype=_ARRAYS[self.tensor.format])
        opened.seek(self.tensor.begin + first * self.columns * found.itemsize)
        read = opened.readinto(found.data.cast("B"))  # type: ignore[attr-defined]
        if read != found.nbytes or not self.file.is_open_as(opened):  # it may change at any time
            raise changed(self.file.path)
        return found


@dataclass(frozen=True, slots=True)
class Module:
    """A weight of MLX: plain numbers, or packed ones with scales."""

    weight: Matrix
    scales: Matrix | None = None
    biases: Matrix | None = None
    packing: Packing | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its numbers."""
        if self.scales is None or self.packing is None:
            return self.weight.tensor.shape
        return *self.weight.tensor.shape[:-1], self.scales.columns * self.packing.group_size

    @property
    def format(self) -> str:
        """As which its numbers are written anew."""
        given = (self.scales or self.weight).tensor.format
        return given if given in STORED else _FORMAT

    @property
    def parts(self) -> tuple[Matrix, ...]:
        """All that it is made of."""
        return tuple(one for one in (self.weight, self.scales, self.biases) if one is not None)


def find_modules(files: Sequence[SafetensorsFile], settings: MlxSettings) -> dict[str, Module]:
    """What the files have, by the name of the weight."""
    stored = {tensor.name: Matrix(file, tensor) for file in files for tensor in file.tensors}
    found: dict[str, Module] = {}
    used: set[str] = set()
    for name, matrix in stored.items():
        if not matrix.tensor.count:
            raise _unfit(settings, name, "has no numbers")
        if matrix.tensor.format != _WORDS:
            continue
        module = name.removesuffix(".weight")
        scales, biases = stored.get(f"{module}.scales"), stored.get(f"{module}.biases")
        found[name] = _packed(settings, name, matrix, scales, biases)
        used |= {name, f"{module}.scales", f"{module}.biases"}
    for name, matrix in stored.items():
        if name in used:
            continue
        if matrix.tensor.format not in STORED:
            raise UnsupportedModel(
                f"{settings.model} is quantised by MLX, and has {name} as {matrix.tensor.format}, which smolora does not read; "
                "load the model that it was made from."
            )
        found[name] = Module(matrix)
    return found


def _packed(settings: MlxSettings, name: str, weight: Matrix, scales: Matrix | None, biases: Matrix | None) -> Module:
    """A packed weight; raises Damaged where its parts do not fit."""
    packing = settings.packing_of(name.removesuffix(".weight"))
    if packing is None:
        raise _unfit(settings, name, "is packed, and its config says that it is not")
    affine = packing.mode == AFFINE
    for kind, part in (("scales", scales), ("biases", biases)):
        if part is None and (affine or kind == "scales"):
            raise _unfit(settings, name, f"is packed, and has no {kind}")
    assert scales is not None
    expected = tuple(STORED) if affine else (_OCTETS,)
    if scales.tensor.format not in expected:
        raise _unfit(settings, name, f"has scales as {scales.tensor.format}, and those of the mode {packing.mode} are not")
    shape = weight.tensor.shape
    groups, left = divmod(weight.columns * 32, packing.bits * packing.group_size)
    if len(shape) < 2 or left or not groups:
        raise _unfit(
            settings, name, f"has the shape {list(shape)}, which is no groups of {packing.group_size} with {packing.bits} bits"
        )
    for kind, part in (("scales", scales), ("biases", biases if affine else None)):
        if part is not None and part.tensor.shape != (*shape[:-1], groups):
            raise _unfit(
                settings, name, f"has {kind} of the shape {list(part.tensor.shape)} instead of {[*shape[:-1], groups]}"
            )
    if affine and biases is not None and biases.tensor.format != scales.tensor.format:
        raise _unfit(settings, name, f"has scales as {scales.tensor.format} and biases as {biases.tensor.format}")
    return Module(weight, scales, biases if affine else None, packing)


def changed(path: Path) -> Damaged:
    """What to raise where a file is not the one whose header was read."""
    return Damaged(f"{path} was changed or cut short while it was read; load the model again when it is whole.")


def _unfit(settings: MlxSettings, name: str, what: str) -> Damaged:
    return Damaged(f"The weights of {settings.model} do not fit its quantization by MLX: {name} {what}; get the model again.")
