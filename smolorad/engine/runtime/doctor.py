"""`python -m smolorad.engine.runtime.doctor`: one line about where models would compute, for `smolorad doctor`."""

from __future__ import annotations

import torch

from smolorad.domain import Device
from smolorad.engine.runtime.device import Hardware, place

STARTER_PARAMETERS = 135_000_000


def describe() -> str:
    """Where the starter model would compute; a small product there must be right."""
    placement = place(None, None, STARTER_PARAMETERS, Hardware.here())
    ones = torch.ones(8, 8, device=str(placement.device), dtype=placement.torch_dtype)
    if (ones @ ones).sum().item() != 512.0:
        raise SystemExit(f"{placement.device} computes wrong products in {placement.dtype}; load models with `--device cpu`")
    threads = f", {torch.get_num_threads()} threads" if placement.device is Device.CPU else ""
    return f"{placement}{threads}, torch {torch.__version__}"


if __name__ == "__main__":
    print(describe())
