"""Start-up: from exec to health's SERVING and to the first token of a model loaded from nothing, against a plain script."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks.harness import REPOSITORY, Bench, Result, daemon
from benchmarks.peers import Figures

PROMPT = "The lighthouse stands"


def project(bench: Bench) -> Figures:
    """A daemon in a fresh home: started, asked to load, asked for a token, ended."""
    with daemon() as served, served.client() as client:
        client.load(bench.model, dtype="bfloat16").result()
        ready = served.since_start_s()
        for _ in client.generate(PROMPT, max_tokens=1, temperature=0):
            break
        return {"serving_s": served.serving_s, "ready_s": ready, "first_token_s": served.since_start_s()}


def script(bench: Bench) -> Figures:
    """The plain script, once."""
    begin = time.time()
    command = [sys.executable, "-m", "benchmarks.peers.cold_script", bench.model, "--prompt", PROMPT]
    done = subprocess.run(
        [*map(str, command), "--new-tokens", "1", "--threads", str(bench.threads)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return {"first_token_s": json.loads(done.stdout)["first_token_at"] - begin}


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("startup")
    result = Result(bench)
    result.run({"project": lambda: project(bench), "script": lambda: script(bench)})
    ratios = {"ready_vs_script": result.ratio(("script", "first_token_s"), ("project", "first_token_s"))}
    print(result.line(ratios))


if __name__ == "__main__":
    main()
