"""torch's tensors as numpy arrays over the same memory, and back; bfloat16 is unsigned integers in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KNOWN = frozenset({torch.float32, torch.bfloat16})


def array_of(tensor: Tensor) -> NDArray[Any]:
    """The memory of an FP32 or BF16 tensor on the CPU."""
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        found: NDArray[Any] = tensor.view(torch.int16).numpy().view(np.uint16)
        return found
    return tensor.numpy()


def tensor_of(array: NDArray[Any]) -> Tensor:
    """The memory of an array as `array_of` gives it."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
