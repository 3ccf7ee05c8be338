"""Which of transformers' models the native step supports, and their weights for it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from smolorad.domain import Precision
from smolorad.engine.model.describe import describe
from smolorad.engine.model.describe_rope import NotDescribed
from smolorad.engine.native.decoder import packable
from smolorad.engine.native.description import Decoder
from smolorad.engine.native.misfit import misfit
from smolorad.engine.native.torch_arrays import KNOWN, array_of


def decoder_of(model: Any, precision: Precision = Precision.EXACT) -> Decoder | None:
    """The description of a model that the native step computes as transformers does; None for another.

    For a model on the meta device: whether it will, on the CPU.
    """
    return None if isinstance(found := described(model, precision), str) else found


def described(model: Any, precision: Precision = Precision.EXACT) -> Decoder | str:
    """The description of a model, or why the native step does not compute it."""
    try:
        decoder = describe(model)
    except NotDescribed as reason:
        return str(reason)
    parameters = dict(model.named_parameters())
    matrices = [tensor for tensor in parameters.values() if tensor.ndim > 1]
    dtype = parameters[decoder.embedding].dtype
    if dtype not in KNOWN or any(tensor.dtype is not dtype for tensor in matrices):
        return "its weights are in a number format that the native decoder does not read"
    if any(tensor.device.type not in ("cpu", "meta") for tensor in parameters.values()):
        return "its weights are not on the CPU"
    if precision is not Precision.EXACT and not packable(decoder):
        return "the columns of its matrices do not fall into groups of 32"
    return misfit(decoder, {name: tensor.shape for name, tensor in parameters.items()}) or decoder


def weights_of(model: Any) -> dict[str, NDArray[Any]]:
    """The parameters of a model on the CPU by name, without a copy."""
    return {name: array_of(tensor) for name, tensor in model.named_parameters()}


def lay_rows_out(model: Any, decoder: Decoder) -> None:
    """Stores the weights that a module keeps transposed (Conv1D) so that the native step can read their rows in place.

    The parameters stay what they are; only the order of their numbers in memory changes.
    """
    parameters = dict(model.named_parameters())
    for name in {linear.weight for linear in decoder.linears if linear.transposed}:
        parameter = parameters[name]
        parameter.data = parameter.data.t().contiguous().t()
