"""What each precision costs in quality: perplexity on this repository's own prose, and the mean KL to fp32.

python -m benchmarks.quality MODEL [TEXT ...]; prints one JSON object. transformers' own bf16 is the measure.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolora.common.paths import cache_path
from smolorad.domain import Precision
from smolorad.engine.model.native_support import shape_of, supports, weights_of
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, Part

ROOT = Path(__file__).parents[1]
TOKENS = 512  # of each text


def native_logits(model: NativeModel, ids: list[int]) -> Tensor:
    """The logits after every token, as generation computes them."""
    cache = model.cache(len(ids))
    parts = (ids[at : at + MAX_ROWS] for at in range(0, len(ids), MAX_ROWS))
    return torch.cat([torch.from_numpy(model.step([Part(part, cache, every=True)])) for part in parts])


@torch.inference_mode()
def main() -> None:
    """Prints the object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="*", default=[ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    truth = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    half = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.bfloat16).eval()
    built = library(cache_path(), torch.get_num_threads())
    native = (
        {precision: NativeModel(built, shape_of(half), weights_of(half), precision) for precision in Precision}
        if built and all(supports(half, precision) for precision in Precision)
        else {}
    )
    sums: dict[str, list[float]] = {}
    scored = 0

    def add(name: str, logits: Tensor, true: Tensor, ids: Tensor) -> None:
        found = logits.float().log_softmax(-1)
        kl = float(kl_div(found, true, log_target=True, reduction="sum"))
        loss = float(cross_entropy(logits[:-1].float(), ids[1:], reduction="sum"))
        sums.setdefault(name, [0.0, 0.0])
        sums[name][0] += kl
        sums[name][1] += loss

    for path in given.texts:
        ids: list[int] = tokenizer(path.read_text(encoding="utf-8"))["input_ids"][:TOKENS]
        tensor = torch.tensor([ids])
        logits: Any = truth(tensor).logits[0]
        true = logits.log_softmax(-1)
        scored += len(ids)
        add("transformers_fp32", logits, true, tensor[0])
        add("transformers_bf16", half(tensor).logits[0], true, tensor[0])
        for precision, model in native.items():
            add(precision.value, native_logits(model, ids), true, tensor[0])
    texts = len(given.texts)
    print(
        json.dumps(
            {
                name: {"perplexity": round(math.exp(loss / (scored - texts)), 4), "kl_to_fp32": round(kl / scored, 7)}
                for name, (kl, loss) in sums.items()
            }
        )
    )


if __name__ == "__main__":
    main()
