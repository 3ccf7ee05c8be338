"""The weights of a model that MLX has quantised, under transformers' names, read from the files a few rows at a time.

MLX computes scale * q + bias in the number format of the scales. Here it is computed in fp32, and rounded to that of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from smolorad import publish
from smolorad.engine.mlx.modules import Module, changed, find_modules
from smolorad.engine.mlx.names import names_of
from smolorad.engine.mlx.packing import dequantized
from smolorad.engine.mlx.settings import MlxSettings
from smolorad.errors import Damaged, NotFound
from smolorad.safetensors_file import SafetensorsFile, StoredTensor

_CHUNK = 2**17  # numbers read at once, about: with more, those between two steps leave the cache
_MOST_EXPERTS = 2**16  # a name is made for each before the config is compared


@dataclass(frozen=True, slots=True)
class Parameter:
    """Some rows of a module are a tensor of transformers."""

    module: Module
    first: int
    count: int
    transposed: bool


@dataclass(frozen=True, slots=True)
class MlxWeights:
    """The files of a model, and what each parameter is made of."""

    files: tuple[SafetensorsFile, ...]
    parameters: Mapping[str, Parameter]
    tensors: tuple[StoredTensor, ...]  # as the files of transformers would have them

    @classmethod
    def of(cls, files: Sequence[SafetensorsFile], settings: MlxSettings, model_type: str) -> Self:
        """The weights in these files. Raises Damaged where their shapes are not those of the settings, UnsupportedModel."""
        parameters: dict[str, Parameter] = {}
        tensors = []
        for name, module in find_modules(files, settings).items():
            if module.shape and len(module.shape) > 2 and module.shape[0] > _MOST_EXPERTS:
                raise Damaged(f"{name} of {settings.model} has {module.shape[0]:,} experts; get the model again.")
            names = names_of(name, model_type, module.shape[0] if module.shape else 0)
            for one in names:
                shape = module.shape if one.expert is None else module.shape[1:]
                rows = math.prod(shape[:-1])
                parameters[one.name] = Parameter(module, (one.expert or 0) * rows, rows, one.transposed)
                tensors.append(StoredTensor(one.name, module.format, shape[::-1] if one.transposed else shape, 0, 0))
        return cls(tuple(files), parameters, tuple(tensors))

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.files)

    def sums(self, known: Mapping[str, str]) -> dict[str, str]:
        """The files' SHA-256 by name; `known` has some of them."""
        return {file.path.name: known.get(file.path.name) or publish.sha256_file(file.path) for file in self.files}

    def read(self, name: str) -> Iterator[NDArray[Any]]:
        """The numbers of a tensor in order, in pieces: each FP32, FP16, or BF16 as uint16. Raises NotFound, Damaged."""
        parameter = self.parameters[name]
        pieces = _rows(parameter)
        if parameter.transposed:
            yield np.concatenate(list(pieces)).T
        else:
            yield from pieces


def _rows(parameter: Parameter) -> Iterator[NDArray[Any]]:
    module = parameter.module
    step = max(_CHUNK // max(module.shape[-1] if module.shape else 1, 1), 1)
    end = parameter.first + parameter.count
    with ExitStack() as stack:
        opened = {one.file.path: stack.enter_context(_open(one.file)) for one in module.parts}
        for first in range(parameter.first, end, step):
            count = min(step, end - first)
            weight, *others = (one.rows(opened[one.file.path], first, count) for one in module.parts)
            if module.packing is None:
                yield weight
            else:
                yield dequantized(weight, others[0], others[1] if len(others) > 1 else None, module.packing)


def _open(file: SafetensorsFile) -> BinaryIO:
    try:
        opened = file.path.open("rb", buffering=0)
    except OSError as error:
        raise NotFound(f"{file.path} is gone; bring it back, or load another model.") from error
    if not file.is_open_as(opened):
        opened.close()
        raise changed(file.path)
    return opened
