"""No peer but the limit: what this machine's memory and processor give."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

READ_BYTES = 512 * 2**20
LEAST_RUNS, ENOUGH_S = 3, 5.0
ROWS, INNER, COLUMNS = 1024, 576, 1536


def best(work: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs, in seconds; fewer where they take long, as bfloat16 does on processors without it."""
    times: list[float] = []
    while len(times) < repeats and (len(times) < LEAST_RUNS or sum(times) < ENOUGH_S):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    torch.set_num_threads(parser.parse_args().threads)
    block = torch.ones(READ_BYTES // 4)
    left, right = torch.ones(ROWS, INNER, dtype=torch.bfloat16), torch.ones(INNER, COLUMNS, dtype=torch.bfloat16)
    figures = {
        "read_gb_s": READ_BYTES / best(block.sum, 7) / 1e9,
        "bf16_gflop_s": 2 * ROWS * INNER * COLUMNS / best(lambda: left @ right, 50) / 1e9,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
