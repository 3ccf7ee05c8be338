"""The global random generators, which only training draws from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def untouched_random() -> Iterator[None]:
    """Leaves the global random generators as they were: what happens inside must not change what is trained."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    device = torch.mps if torch.backends.mps.is_available() else torch.cuda if torch.cuda.is_available() else None
    of_device = None if device is None else device.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.random.set_rng_state(cpu)
        if device is not None and of_device is not None:
            device.set_rng_state(of_device)
