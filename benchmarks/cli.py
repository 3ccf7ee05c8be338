"""The command line: `smolora-client generate` with a warm daemon, against a script that loads the model each time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import REPOSITORY, Bench, Daemon, Result, daemon
from benchmarks.peers import Figures

PROMPT = "The lighthouse stands"
TOKENS = 16
CLIENT = Path(sys.executable).parent / "smolora-client"


def project(served: Daemon) -> Figures:
    """One command: its whole wall time, and what of it was not the engine's work."""
    command = [str(CLIENT), "generate", PROMPT, "--max-new-tokens", str(TOKENS), "--temperature", "0", "--json", "--no-stream"]
    begin = time.perf_counter()
    done = subprocess.run(command, env=served.environ, stdout=subprocess.PIPE, check=True)
    wall = time.perf_counter() - begin
    timings = json.loads(done.stdout)["outcome"]["timings"]
    return {"wall_s": wall, "overhead_s": wall - timings["prefill_s"] - timings["decode_s"]}


def script(bench: Bench) -> Figures:
    """The plain script, once."""
    command = [sys.executable, "-m", "benchmarks.peers.cold_script", bench.model, "--prompt", PROMPT]
    begin = time.perf_counter()
    subprocess.run(
        [*map(str, command), "--new-tokens", str(TOKENS), "--threads", str(bench.threads)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return {"wall_s": time.perf_counter() - begin}


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("cli")
    result = Result(bench)
    with daemon() as served, served.client() as client:
        client.load(bench.model, dtype="bfloat16", keep_alive=-1).result()
        project(served)
        result.run({"project": lambda: project(served), "script": lambda: script(bench)})
    ratios = {"cli_vs_script": result.ratio(("script", "wall_s"), ("project", "wall_s"))}
    print(result.line(ratios, tokens=TOKENS))


if __name__ == "__main__":
    main()
