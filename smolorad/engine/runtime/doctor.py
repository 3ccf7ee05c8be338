"""`python -m smolorad.engine.runtime.doctor`: one line about where models would compute, for `smolorad doctor`."""

from __future__ import annotations

import torch

from smolorad.domain import Device
from smolorad.engine.runtime.device import Hardware, place

STARTER_PARAMETERS = 135_000_000


def describe() -> str:
    """How the starter model would compute, after a small product on that device."""
    placement = place(None, None, STARTER_PARAMETERS, Hardware.here())
    ones = torch.ones(8, 8, device=str(placement.device), dtype=placement.torch_dtype)
    if (ones @ ones).sum().item() != 512.0:
        raise SystemExit(f"{placement.device} multiplies wrongly in {placement.dtype}")
    threads = f", {torch.get_num_threads()} threads" if placement.device is Device.CPU else ""
    return f"{placement}{threads}, torch {torch.__version__}"


if __name__ == "__main__":
    print(describe())
