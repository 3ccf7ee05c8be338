"""The weights of a GGUF model under transformers' names, read from the files a few rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from smolorad.engine.gguf.layout import LAYOUT, File, Layout, Parameter, Part, Source
from smolorad.engine.runtime.dtypes import to_fp32
from smolorad.errors import Damaged, NotFound
from smolorad.safetensors_file import StoredTensor, version_of

_CHUNK = 2**20  # numbers read at once, about
# ggml's numbers of the formats that numpy has, and of bfloat16.
_PLAIN: Mapping[int, np.dtype[Any]] = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 30: np.dtype(np.uint16)}


@dataclass(frozen=True, slots=True)
class GgufWeights:
    """The files of a model, and what each parameter is made of."""

    layout: Layout
    tensors: tuple[StoredTensor, ...]  # as the files of transformers would have them

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The weights that a model's folder says where to find; raises Damaged for a layout that cannot be read."""
        path = folder / LAYOUT
        try:
            layout = msgspec.json.decode(path.read_bytes(), type=Layout)
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
            raise Damaged(f"{path} cannot be read ({error}); delete {folder}.") from error
        return cls(layout, tuple(StoredTensor(name, one.format, one.shape, 0, 0) for name, one in layout.parameters.items()))

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.size for file in self.layout.files)

    def sums(self, known: Mapping[str, str]) -> dict[str, str]:
        """The files' SHA-256, by names that stay when a file is moved: every byte was read when the layout was made.

        Raises NotFound where a file is gone, Damaged where one was changed since then.
        """
        for file in self.layout.files:
            try:
                stat = os.stat(file.path)
            except OSError as error:
                raise NotFound(f"{file.path} is gone; bring it back, or load another model.") from error
            if version_of(stat) != file.version:
                raise _changed(file.path)
        return {f"model-{at}.gguf": file.sha256 for at, file in enumerate(self.layout.files)}

    def read(self, name: str) -> Iterator[NDArray[Any]]:
        """The numbers of a parameter in order, in pieces: each FP32, FP16, or BF16 as uint16. Raises as `sums`."""
        parameter = self.layout.parameters[name]
        with ExitStack() as stack:
            opened: dict[int, BinaryIO] = {}
            pieces = self._pieces(parameter, opened, stack)
            if parameter.transposed:
                rows, columns = parameter.shape[::-1]
                yield np.concatenate([piece.reshape(-1, columns) for piece in pieces]).reshape(rows, columns).T
            else:
                yield from pieces

    def _pieces(self, parameter: Parameter, opened: dict[int, BinaryIO], stack: ExitStack) -> Iterator[NDArray[Any]]:
        if not parameter.parts:
            yield np.zeros(parameter.shape, dtype=np.float32)
        for part in parameter.parts:
            source = self.layout.sources[part.tensor]
            if source.file not in opened:
                opened[source.file] = stack.enter_context(self._open(source.file))
            for piece in _rows(opened[source.file], source, part, self.layout.files[source.file]):
                yield to_fp32(piece) - np.float32(parameter.offset) if parameter.offset else piece

    def _open(self, at: int) -> BinaryIO:
        file = self.layout.files[at]
        try:
            opened = open(file.path, "rb", buffering=0)  # noqa: SIM115  # the caller's stack closes it
        except OSError as error:
            raise NotFound(f"{file.path} is gone; bring it back, or load another model.") from error
        if version_of(os.fstat(opened.fileno())) != file.version:
            opened.close()
            raise _changed(file.path)
        return opened


def _rows(file: BinaryIO, source: Source, part: Part, whole: File) -> Iterator[NDArray[Any]]:
    """The rows of a part, in transformers' order."""
    unit = 2 * part.pairs or 1
    step = max(_CHUNK // max(source.columns, 1) // unit, 1) * unit
    for first in range(part.first, part.first + part.count, step):
        count = min(step, part.first + part.count - first)
        raw = np.empty((count, source.row_nbytes), dtype=np.uint8)
        file.seek(source.begin + first * source.row_nbytes)
        read = file.readinto(raw.data.cast("B"))  # type: ignore[attr-defined]
        if read != raw.nbytes or version_of(os.fstat(file.fileno())) != whole.version:  # it may change at any time
            raise _changed(whole.path)
        if part.pairs:
            raw = raw.reshape(-1, part.pairs, 2, source.row_nbytes).swapaxes(1, 2).reshape(raw.shape)
        yield _decoded(raw, source.type)


def _decoded(raw: NDArray[np.uint8], type: int) -> NDArray[Any]:
    if (plain := _PLAIN.get(type)) is not None:
        return raw.view(plain)
    from gguf import GGMLQuantizationType, quants  # only such models need it

    decoded: NDArray[np.float32] = quants.dequantize(raw, GGMLQuantizationType(type))
    return decoded


def _changed(path: str) -> Damaged:
    return Damaged(f"{path} was changed or cut short since it was read; load the model again when it is whole.")
