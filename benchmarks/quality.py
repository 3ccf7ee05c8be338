"""What each precision costs in quality: perplexity on this repository's own prose, and the mean KL to fp32 of a token.

python -m benchmarks.quality MODEL [TEXT ...]; prints one JSON object. `bytes` and `bits_per_weight` are those of the matrices a
token reads, the head among them. `--peers q8_0,q4_0,q4_k_m` measures llama.cpp, too, by its own logits.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.gguf_file import gguf
from benchmarks.harness import REPOSITORY, PeerMissing, list_of
from benchmarks.models import model_folder
from benchmarks.peers import environments
from benchmarks.peers.llama_cpp_quantize import FORMATS
from smolora.common.paths import cache_path
from smolorad.domain import Precision
from smolorad.engine.model.native_support import decoder_of, weights_of
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part

TOKENS = 512  # of each text
TEXTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@dataclass(slots=True)
class Loss:
    """Sums over the tokens of all texts."""

    nbytes: int = 0
    kl: float = 0.0
    cross_entropy: float = 0.0
    tokens: int = 0
    texts: int = 0

    def add(self, logits: Tensor, true: Tensor, ids: Sequence[int]) -> None:
        """A text: `true` are the logarithms of the true probabilities."""
        found = logits.float()
        self.kl += float(kl_div(found.log_softmax(-1), true, log_target=True, reduction="sum"))
        self.cross_entropy += float(cross_entropy(found[:-1], torch.tensor(ids[1:]), reduction="sum"))
        self.tokens += len(ids)
        self.texts += 1

    def figures(self, weights: int) -> dict[str, float]:
        """As they are printed; `weights`: how many numbers the matrices have."""
        figures: dict[str, float] = {
            "perplexity": round(math.exp(self.cross_entropy / (self.tokens - self.texts)), 4),
            "kl_to_fp32": round(self.kl / self.tokens, 7),
        }
        if self.nbytes:
            figures |= {"bytes": self.nbytes, "bits_per_weight": round(8 * self.nbytes / weights, 3)}
        return figures


def native_logits(model: NativeModel, ids: Sequence[int]) -> Tensor:
    """The logits after every token, as generation computes them."""
    cache = model.cache(len(ids))
    parts = (ids[at : at + MAX_ROWS] for at in range(0, len(ids), MAX_ROWS))
    return torch.cat([torch.from_numpy(model.step([Part(part, cache, every=True)])) for part in parts])


def native_models(model: Any) -> dict[str, NativeModel]:
    """The model in every precision that the native step supports."""
    built = library(cache_path(), torch.get_num_threads())
    found = {}
    for precision in Precision if built else ():
        decoder = decoder_of(model, precision)
        if built and decoder:
            found[precision.value] = NativeModel(built, decoder, weights_of(model), precision)
    return found


def peer_logits(file: Path, texts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """llama.cpp's logits after every token of each text; raises PeerMissing with the reason."""
    if reason := environments.reason_missing("llama_cpp"):
        raise PeerMissing(reason)
    with tempfile.TemporaryDirectory() as folder:
        for ids in texts:
            to, task = Path(folder) / "logits.npy", json.dumps(list(ids))
            command = [environments.python("llama_cpp"), "-m", "benchmarks.peers.llama_cpp_logits", file, to]
            command += ["--threads", torch.get_num_threads()]
            done = subprocess.run(
                list(map(str, command)), cwd=REPOSITORY, input=task, stdout=sys.stderr, text=True, check=False
            )
            if done.returncode:
                raise PeerMissing(f"llama.cpp ended with status {done.returncode}")
            yield torch.from_numpy(np.load(to))


def gguf_bytes(file: Path) -> int:
    """Bytes of the matrices that a token reads: all but embeddings, which are read where they are the head, too."""
    from gguf import GGUFReader

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1}
    return sum(size for name, size in sizes.items() if name != "token_embd.weight" or "output.weight" not in sizes)


@torch.inference_mode()
def measure(folder: Path, paths: Sequence[Path], peers: Sequence[str] = ()) -> dict[str, Any]:
    """The figures of each precision by its name, and the reason of a peer that is missing."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts: list[list[int]] = [tokenizer(path.read_text(encoding="utf-8"))["input_ids"][:TOKENS] for path in paths]
    truth = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    native = native_models(half)
    losses = {name: Loss(model.nbytes) for name, model in native.items()}
    losses = {"transformers_fp32": Loss(), "transformers_bf16": Loss(), **losses}
    weights = sum(module.weight.numel() for module in truth.modules() if isinstance(module, torch.nn.Linear))
    files = {peer: gguf(folder, peer) for peer in peers}
    streams = {peer: peer_logits(file, texts) for peer, file in files.items()}
    losses |= {f"llama.cpp {peer}": Loss(gguf_bytes(file)) for peer, file in files.items()}
    for ids in texts:
        logits: Tensor = truth(torch.tensor([ids])).logits[0]
        true = logits.log_softmax(-1)
        losses["transformers_fp32"].add(logits, true, ids)
        losses["transformers_bf16"].add(half(torch.tensor([ids])).logits[0], true, ids)
        for name, model in native.items():
            losses[name].add(native_logits(model, ids), true, ids)
        for peer, stream in streams.items():
            losses[f"llama.cpp {peer}"].add(next(stream), true, ids)
    return {name: loss.figures(weights) for name, loss in losses.items()}


def main() -> None:
    """Prints the object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a name of benchmarks.models, such as starter-rotated, or a folder")
    parser.add_argument("texts", type=Path, nargs="*", default=TEXTS)
    parser.add_argument("--peers", type=list_of(tuple(FORMATS)), default=(), help=f"of {','.join(FORMATS)}")
    given = parser.parse_args()
    try:
        print(json.dumps(measure(model_folder(given.model), given.texts, given.peers)))
    except PeerMissing as reason:
        raise SystemExit(str(reason)) from None


if __name__ == "__main__":
    main()
