"""`python -m smolorad.engine.doctor`: one line about where models would compute, for `smolorad doctor`."""

from __future__ import annotations

import torch


def describe() -> str:
    """The device that would be chosen, after a small product on it."""
    device = "mps" if torch.backends.mps.is_available() else "cuda" if torch.cuda.is_available() else "cpu"
    ones = torch.ones(8, 8, device=device)
    if (ones @ ones).sum().item() != 512.0:
        raise SystemExit(f"{device} multiplies wrongly")
    threads = f" with {torch.get_num_threads()} threads" if device == "cpu" else ""
    return f"{device}{threads}, torch {torch.__version__}"


if __name__ == "__main__":
    print(describe())
