"""Generation: the daemon over its socket, against several peers on the same weights, precision by precision.

In each precision the project and its peers stand ready together and take turns. `streamed_vs_engine` is what the way through
the daemon leaves of the engine's own speed in the same generation. `roofline` is the share of the speed at which this machine's
memory could give the weights once for each token. `lookup_decode_tok_s` is greedy text with prompt lookup, which gains where
text repeats itself; `decode_tok_s` is without, as in the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from benchmarks import startup
from benchmarks.contenders import FORMS, PEERS, contenders, file_bytes, ready
from benchmarks.harness import REPOSITORY, Bench, PeerMissing, Result, daemon, list_of, machine, report
from benchmarks.peers import Figures
from benchmarks.precise import Precise, trained_to_first_token_s
from benchmarks.task import PARTS, QUICK, TINY, Sizes, Task, make_task

NAMES = {"exact": "project", "int8": "project_int8", "int4": "project_int4"}
# Parts that a model does not have by default: they say nothing new about it, and take long for large ones.
ONLY_STARTER = frozenset({"adapters", "start", "quality"})


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", type=list_of(PARTS), help=f"of {','.join(PARTS)}; adapters, start, quality: the starter's")
    parser.add_argument("--peers", type=list_of(PEERS), default=PEERS, help=f"of {','.join(PEERS)}; default: all")
    parser.add_argument("--precisions", type=list_of(tuple(FORMS)), default=tuple(FORMS), help=f"of {','.join(FORMS)}")
    parser.add_argument("--tiny", action="store_true", help="a few tokens of each: whether all runs, no figures")


def sizes(bench: Bench) -> Sizes:
    """How much work."""
    return TINY if bench.given.tiny else QUICK if bench.quick else Sizes()


def parts(bench: Bench) -> frozenset[str]:
    """What is measured."""
    if bench.given.only:
        return frozenset(bench.given.only)
    return frozenset(PARTS) - (ONLY_STARTER if bench.given.model not in (None, "starter") else frozenset())


def measure(bench: Bench, result: Result, task: Task, file: Path, precision: str) -> dict[str, Any]:
    """The project and its peers in one precision, in turn; facts about the project."""
    facts: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(daemon())
        client = stack.enter_context(served.client())
        resident = client.load(bench.model, dtype="bfloat16", precision=precision, keep_alive=-1).result()
        facts["decoder"] = resident.decoder
        report(f"{resident.name} on {resident.device} in {resident.dtype}, {precision}, {resident.decoder} decoder")
        adapter = None
        if precision == "exact" and "adapters" in task.only:
            adapter = served.root / "adapter"
            subprocess.run([sys.executable, "-m", "benchmarks.make_adapter", bench.model, adapter], check=True, cwd=REPOSITORY)
        turns: dict[str, Callable[[], Figures]] = {NAMES[precision]: Precise(served, client, resident, task, adapter)}
        for one in contenders(precision, bench.given.peers):
            try:
                turns[one.name] = ready(stack, one, bench, file)
            except PeerMissing as why:
                result.leave_out(one.name, str(why))
        if precision == "exact" and "start" in task.only:
            turns |= {"project_start": lambda: startup.project(bench), "cold_script": lambda: startup.script(bench)}
        result.run(turns)
        if adapter is not None:
            facts["trained_to_first_token_s"] = trained_to_first_token_s(client, bench.rounds)
    return facts


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("decode", _arguments)
    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    context_length = AutoConfig.from_pretrained(bench.model).max_position_embeddings

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids

    task = make_task(parts(bench), sizes(bench), encode, context_length)
    result, facts = Result(bench), {}
    with tempfile.TemporaryDirectory(prefix="smolora-bench-") as folder:
        file = task.write(encode, Path(folder) / "task.json")
        for precision in bench.given.precisions:
            facts[precision] = measure(bench, result, task, file, precision)
    trained = facts.get("exact", {}).pop("trained_to_first_token_s", None)
    more: dict[str, object] = {
        "roofline": rooflines(bench, result),
        "decoders": {name: facts[name]["decoder"] for name in facts},
    }
    if trained is not None:
        more["trained_to_first_token_s"] = trained
    if "quality" in task.only:
        more["quality"] = quality(bench.model)
    shown = ratios(result)
    table(result)
    print(result.line(shown, **more))


def rooflines(bench: Bench, result: Result) -> dict[str, float]:
    """The share of the memory's speed: the project's by the bytes that it says a token reads, peers' by their file."""
    read_bytes_s = machine(bench.threads)["read_gb_s"] * 1e9
    bytes_of = {precision: (name, result.median(name, "token_bytes")) for precision, name in NAMES.items()}
    for precision in bench.given.precisions:
        for one in contenders(precision, bench.given.peers):
            if one.name in result.measured:
                bytes_of[one.name] = (one.name, file_bytes(one, bench))
    shares = {}
    for label, (name, size) in bytes_of.items():
        speed = result.median(name, "decode_tok_s")
        if size and speed:
            shares[label] = round(speed * size / read_bytes_s, 3)
    return shares


def quality(model: Path) -> object:
    """What each precision costs, from a process of its own, as it loads the model in fp32 too."""
    command = [sys.executable, "-m", "benchmarks.quality", model]
    return json.loads(subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout)


def ratios(result: Result) -> dict[str, float | None]:
    """More is better in each. Every figure of speed against every peer of the same bits, and memory the other way round."""
    own, hf = "project", "transformers"
    found: dict[str, float | None] = {}
    for precision, ours in NAMES.items():
        label = {"exact": "bf16"}.get(precision, precision)
        for one in contenders(precision, PEERS):
            if one.name not in result.measured:
                continue
            for figure in result.measured[one.name][0]:
                if figure.endswith("_tok_s"):
                    found[f"{figure.removesuffix('_tok_s')}_{label}_vs_{one.name}"] = result.ratio(
                        (ours, figure), (one.name, figure)
                    )
            found[f"memory_{label}_vs_{one.name}"] = result.ratio((one.name, "rss_bytes"), (ours, "rss_bytes"))
    found |= {
        "warm_prefix_vs_transformers": result.ratio((hf, "warm_prefix_s"), (own, "warm_prefix_s")),
        "warm_prefix_vs_llama_cpp_f16": result.ratio(("llama_cpp_f16", "warm_prefix_s"), (own, "warm_prefix_s")),
        "streams8_vs_one": result.ratio((own, "streams8_tok_s"), (own, "decode_tok_s")),
        "adapter_vs_base": result.ratio((own, "adapter_decode_tok_s"), (own, "decode_tok_s")),
        "streamed_vs_engine": result.ratio((own, "decode_tok_s"), (own, "engine_decode_tok_s")),
        "ready_vs_script": result.ratio(("cold_script", "first_token_s"), ("project_start", "first_token_s")),
    }
    return found


def table(result: Result) -> None:
    """The medians for people, on stderr."""
    figures = list(dict.fromkeys(key for rows in result.measured.values() for key in rows[0] if key != "tokens"))
    names = list(result.measured)
    widths = [max(len(name), 9) for name in names]
    report(" " * 24 + "  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True)))
    for figure in figures:
        cells = [result.median(name, figure) for name in names]
        scaled = [None if cell is None else cell / 1e6 if figure.endswith("_bytes") else cell for cell in cells]
        shown = ["" if cell is None else f"{cell:.4g}" for cell in scaled]
        label = figure.replace("_bytes", "_MB")
        report(label.ljust(24) + "  ".join(cell.rjust(width) for cell, width in zip(shown, widths, strict=True)))


if __name__ == "__main__":
    main()
