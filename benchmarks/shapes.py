"""Models of a known shape with random weights: what a token costs does not depend on the weights' values.

The embeddings are small beside what the layers add, so that the next token depends on the whole text and greedy text does not
repeat itself: prompt lookup gains nothing. The rows of the control tokens are zero, so that greedy text never ends by itself.
The tokenizer is the starter's with one added token for each further id, so that every id is text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 0
EMBEDDING_STD = 0.02


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A class of transformers, and its config."""

    architecture: str
    config: dict[str, Any]


_LLAMA_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _llama(hidden: int, layers: int, heads: int, head_dim: int, inner: int) -> ModelShape:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "head_dim": head_dim}
    more = {"intermediate_size": inner, "num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 131_072}
    return ModelShape(
        "Llama", sizes | more | {"rope_parameters": _LLAMA_ROPE, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    )


SHAPES = {
    "qwen3-0.6b-shape": ModelShape(
        "Qwen3",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
            "vocab_size": 151_936,
            "max_position_embeddings": 40_960,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        },
    ),
    "llama-3.2-1b-shape": _llama(2048, 16, 32, 64, 8192),
    "llama-3.2-3b-shape": _llama(3072, 28, 24, 128, 8192),
}


def make_shape(shape: ModelShape, starter: Path, folder: Path) -> None:
    """Writes the model and its tokenizer into `folder`; `starter` has the tokenizer that it begins with."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(starter)
    control = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = getattr(transformers, f"{shape.architecture}Config")(**shape.config, **control)
    with torch.device("meta"):
        model = getattr(transformers, f"{shape.architecture}ForCausalLM")(config)
    model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_weights()
    _fill(model, sorted(set(tokenizer.all_special_ids)))
    model.generation_config = transformers.GenerationConfig(**control)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _cover(folder / "tokenizer.json", config.vocab_size)


def _fill(model: Any, control: list[int]) -> None:
    """Random weights of a fixed seed, in place: variance is kept from a layer's input to its output."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.fill_(1.0)
            else:
                embedding = "embed_tokens" in name
                tensor.normal_(0.0, EMBEDDING_STD if embedding else tensor.shape[1] ** -0.5, generator=generator)
                if embedding:
                    tensor[control] = 0.0


def _cover(path: Path, vocabulary: int) -> None:
    """Adds a token for each id that the tokenizer does not have."""
    content = json.loads(path.read_text(encoding="utf-8"))
    known = max(max(content["model"]["vocab"].values()), *(token["id"] for token in content["added_tokens"])) + 1
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"] += [{"id": id, "content": f" <{id}>", **flags} for id in range(known, vocabulary)]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
