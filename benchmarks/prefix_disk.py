"""The first token of a prompt of 4,096 tokens: computed anew, from the prefix cache in memory, and from the one on disk.

The project alone, in a cache of its own, in one number format. `disk_s` is measured after a restart of the daemon and after
unloadings, each time as the first request of an engine that has loaded the model. The system has files that were written lately
in memory; `cold_disk_s` is measured after it was asked to drop them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.harness import Bench, Result, daemon, report
from benchmarks.peers.texts import long_text
from smolora import Client
from smolora.common.paths import cache_path

TOKENS = 4096
TIMES = 7
_NEEDED = ("blueprints", "native", "starter", "weights")  # of the user's cache


def main() -> None:
    """Prints one JSON line."""
    bench = Bench.from_command_line("prefix_disk", _add_arguments, rounds=3)
    text = prompt(bench.model)
    result = Result(bench)
    with own_cache() as prefixes:
        for number in range(bench.rounds):
            report(f"round {number + 1} of {bench.rounds}")
            result.add("project", measure(bench, f"{number} {text}", prefixes))
    print(result.line({"disk_vs_anew": result.ratio(("project", "anew_s"), ("project", "disk_s"))}, dtype=bench.given.dtype))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="default: bfloat16")


def prompt(model: Path) -> str:
    """A text of a little more than `TOKENS` tokens, its number included."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = next(lines for lines in range(1, TOKENS) if len(tokenizer(long_text(lines))["input_ids"]) >= TOKENS - 2)
    return long_text(lines)


@contextmanager
def own_cache() -> Iterator[Path]:
    """A cache without prefixes, beside what else the user's has; the folder of its prefixes."""
    whole, before = cache_path(), os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(prefix="smolora-bench-", dir=whole.parent) as folder:
        os.environ |= {"XDG_CACHE_HOME": folder, "SMOLORA_PREFIX_CACHE_DISK_BYTES": str(2**34)}
        cache_path().mkdir()
        for name in _NEEDED:
            (whole / name).mkdir(exist_ok=True)
            (cache_path() / name).symlink_to(whole / name)
        try:
            yield cache_path() / "prefixes"
        finally:
            del os.environ["SMOLORA_PREFIX_CACHE_DISK_BYTES"]
            os.environ |= {"XDG_CACHE_HOME": before} if before is not None else {}


def measure(bench: Bench, text: str, prefixes: Path) -> dict[str, float]:
    """The figures of one prompt that no earlier round has."""
    shutil.rmtree(prefixes, ignore_errors=True)
    with daemon() as served, served.client() as client:
        load(client, bench)
        first(client, "Hello")
        anew = first(client, text)
        time.sleep(1.0)  # meanwhile it is written
        warm = statistics.median(first(client, text) for _ in range(TIMES))
    files = list(prefixes.glob("*/*.kv"))
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    disk, cold = [], []
    with daemon() as served, served.client() as client:
        for _ in range(TIMES):
            load(client, bench)
            disk.append(first(client, text))
            client.unload()
        for _ in range(TIMES):
            load(client, bench)
            drop(files)
            cold.append(first(client, text))
            client.unload()
    return {
        "anew_s": anew,
        "warm_s": warm,
        "disk_s": statistics.median(disk),
        "restart_s": disk[0],
        "cold_disk_s": statistics.median(cold),
        "megabytes": megabytes,
        "disk_of_anew": statistics.median(disk) / anew,
        "ms_per_megabyte": 1e3 * (statistics.median(disk) - warm) / megabytes,
        "cold_ms_per_megabyte": 1e3 * (statistics.median(cold) - warm) / megabytes,
    }


def load(client: Client, bench: Bench) -> None:
    """Loads the model in the number format that is measured."""
    client.load(bench.model, dtype=bench.given.dtype).result()


def first(client: Client, text: str) -> float:
    """Seconds from the request to the answer of one token."""
    begin = time.perf_counter()
    client.generate(text, max_tokens=1, temperature=0).text()
    return time.perf_counter() - begin


def drop(files: list[Path]) -> None:
    """Has the system forget what it has of files in memory, where it can."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


if __name__ == "__main__":
    main()
