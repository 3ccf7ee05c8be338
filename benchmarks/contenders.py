"""The peers of the decode benchmark in each precision of the project: ready, or the reason why not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.gguf_file import fingerprint, gguf
from benchmarks.harness import Bench, PeerMissing, peer
from benchmarks.models import benchmarks_cache
from benchmarks.peers import Figures, environments

PEERS = ("llama_cpp", "transformers", "openvino", "ctranslate2", "vllm")
# The precision of the project, and what each peer calls the same number of bits.
FORMS = {"exact": "f16", "int8": "q8_0", "int4": "q4_0"}
_BITS = {"exact": 16, "int8": 8.5, "int4": 4.5}
_HEADROOM = 1.3  # beside its weights a peer has KV caches, and copies while it loads
_LEAST_FREE = 700 * 2**20

Measuring = Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Contender:
    """One peer in one precision."""

    name: str
    peer: str
    precision: str


def contenders(precision: str, wanted: tuple[str, ...]) -> list[Contender]:
    """Who is measured beside the project in this precision."""
    form = FORMS[precision]
    found = [("llama_cpp", f"llama_cpp_{form}"), ("openvino", f"openvino_{form}")]
    if precision == "exact":
        found += [("transformers", "transformers"), ("vllm", "vllm")]
    if precision == "int8":
        found += [("ctranslate2", "ctranslate2_int8")]
    return [Contender(name, of, precision) for of, name in found if of in wanted]


def ready(stack: contextlib.ExitStack, one: Contender, bench: Bench, task: Path) -> Measuring:
    """Starts the peer; raises PeerMissing with the reason where it cannot take part."""
    if one.peer != "transformers" and (reason := environments.reason_missing(one.peer)):
        raise PeerMissing(reason)
    weights = sum(path.stat().st_size for path in bench.model.glob("*.safetensors"))
    needed = max(_LEAST_FREE, _HEADROOM * weights * _BITS[one.precision] / 16)
    if (free := psutil.virtual_memory().available) < needed:
        raise PeerMissing(f"not enough memory: needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    python = Path(sys.executable) if one.peer == "transformers" else environments.python(one.peer)
    model, more = bench.model, ()
    if one.peer in ("llama_cpp", "openvino"):
        model = gguf(bench.model, FORMS[one.precision])
    elif one.peer == "ctranslate2":
        name = f"{bench.model.name}-{fingerprint(bench.model)}-int8"
        more = ("--converted", benchmarks_cache() / "ctranslate2" / name)
    return stack.enter_context(peer(f"{one.peer}_generate", model, task, "--threads", bench.threads, *more, python=python))


def file_bytes(one: Contender, bench: Bench) -> float | None:
    """What a token has to read, nearly: the size of the file; None where the peer reads no GGUF."""
    return float(gguf(bench.model, FORMS[one.precision]).stat().st_size) if one.peer in ("llama_cpp", "openvino") else None
