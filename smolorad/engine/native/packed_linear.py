"""Fast generation for any model: its own code, with our matrix products in its linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from smolorad.domain import Precision
from smolorad.engine.native.library import GROUP, Format, Library, Matrix
from smolorad.engine.native.packed_formats import packed_format, part_of
from smolorad.engine.native.torch_arrays import KNOWN, array_of

# With more rows of activations than this, torch's products are faster where the weights are exact.
_FEW_ROWS = 16


class PackedLinear(nn.Linear):
    """A linear layer that computes few-row products with our library; it shares the replaced layer's weight and bias."""

    def __init__(self, library: Library, weight: nn.Parameter, bias: nn.Parameter | None, matrix: Matrix) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = matrix.rows, matrix.cols
        self.weight = weight
        self.register_parameter("bias", bias)
        self._product = _Product(library, matrix)

    @property
    def nbytes(self) -> int:
        """Bytes of weights that a token reads."""
        return self._product.matrix.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) → (..., out), in x's number format."""
        exact = self._product.matrix.format in (Format.FP32, Format.BF16)
        if exact and x.numel() > _FEW_ROWS * self.in_features:
            return nn.functional.linear(x, self.weight, self.bias)
        vectors = x.detach().to(torch.float32).contiguous().numpy()
        out = torch.from_numpy(self._product.library.multiply(vectors, self._product.matrix))
        return (out if self.bias is None else out + self.bias).to(x.dtype)


class _Product:
    """A matrix and its library; copies of a module share them."""

    def __init__(self, library: Library, matrix: Matrix) -> None:
        self.library, self.matrix = library, matrix

    def __deepcopy__(self, memo: dict[int, Any]) -> _Product:
        return self


@dataclass(frozen=True, slots=True)
class Packed:
    """A view of a model whose linear layers are PackedLinear where possible."""

    model: Any
    nbytes: int  # of weights that a token reads of these layers
    exact_nbytes: int  # of all other weights but embeddings, which are read as they are: those of experts, for example


def pack_linears(view: Any, library: Library, precision: Precision) -> Packed | None:
    """Puts PackedLinear where a view of a model has linear layers that allow it; None where it has none."""
    read = 0
    head = view.get_output_embeddings()
    for parent in list(view.modules()):
        for name, child in list(parent.named_children()):
            part = "head" if child is head else part_of(name)
            if (packed := _packed(child, library, precision, part)) is not None:
                setattr(parent, name, packed)
                read += packed.nbytes
    return Packed(view, read, _exact_nbytes(view)) if read else None


def _exact_nbytes(view: Any) -> int:
    elsewhere = {id(module.weight) for module in view.modules() if isinstance(module, PackedLinear | nn.Embedding)}
    return sum(int(parameter.nbytes) for parameter in view.parameters() if id(parameter) not in elsewhere)


def _packed(layer: Any, library: Library, precision: Precision, part: str) -> PackedLinear | None:
    if type(layer) not in (nn.Linear, Conv1D):
        return None
    weight = layer.weight if type(layer) is nn.Linear else layer.weight.T
    if weight.dtype not in KNOWN or weight.device.type != "cpu":
        return None
    if precision is Precision.EXACT:
        # Conv1D stores its weight transposed, and a copy would cost as much memory as the layer.
        return PackedLinear(library, layer.weight, layer.bias, Matrix.of(array_of(weight))) if weight.is_contiguous() else None
    if weight.shape[1] % GROUP:
        return None
    format, prefer_int4 = packed_format(precision, part), precision is Precision.INT4
    matrix = library.pack(array_of(weight.contiguous()), format, prefer_int4=prefer_int4)
    return PackedLinear(library, layer.weight, layer.bias, matrix)
