"""Views of a model: module trees of their own that share its tensors."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def share(model: nn.Module, *, own_biases: bool = False) -> Any:
    """A deep copy of the modules whose parameters and buffers are the originals."""
    shared: dict[int, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not (own_biases and name.endswith("bias")):
            shared[id(tensor)] = tensor
    return copy.deepcopy(model, shared)
