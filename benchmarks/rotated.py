"""A Llama model whose weights lie on no grid of four bits: the same function, with its hidden size rotated.

The starter is made from a file of four bits, and another four bits reproduce it nearly exactly, which says nothing about them.
Here the weights of the RMS norms are folded into the matrices behind them, and the hidden state is multiplied with a fixed
random orthogonal matrix. What a layer reads is rotated back by its matrix, and what it adds is rotated by its own, so the
logits stay the same. Each weight becomes a sum of 576 others, and is then stored in bfloat16 as those of any trained model
are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

SEED = 0
TOLERANCE = 1e-4  # of the spread of the logits, in FP32
_TOKENS = 64
_READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_WRITERS = ("o_proj", "down_proj")


def make_rotated(source: Path, folder: Path) -> None:
    """Writes the rotated model and the source's tokenizer into `folder`. Raises ValueError if its logits are others."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    tokens = torch.randint(0, model.config.vocab_size, (1, _TOKENS), generator=torch.Generator().manual_seed(SEED))
    with torch.inference_mode():
        before = model(input_ids=tokens).logits
    rotate(model)
    with torch.inference_mode():
        after = model(input_ids=tokens).logits
    if not (after - before).abs().max() < TOLERANCE * before.std():
        raise ValueError("the rotated model computes other logits than its source")
    model.to(torch.bfloat16).save_pretrained(folder)
    for path in source.iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(path, folder)


def rotate(model: Any) -> None:
    """Rotates the hidden size of a Llama in FP32, in place: its norms become ones, its embeddings and its head two matrices."""
    import torch

    hidden = model.config.hidden_size
    rotation = orthogonal(hidden)
    embedding = model.get_input_embeddings().weight.detach().double()
    head = model.get_output_embeddings()
    with torch.no_grad():
        final = embedding if head.weight is model.get_input_embeddings().weight else head.weight.double()
        head.weight = torch.nn.Parameter((final * model.model.norm.weight.double() @ rotation).float())
        model.get_input_embeddings().weight = torch.nn.Parameter((embedding @ rotation).float())
        model.model.norm.weight.fill_(1.0)
        for layer in model.model.layers:
            for norm, block in ((layer.input_layernorm, layer.self_attn), (layer.post_attention_layernorm, layer.mlp)):
                for name, linear in block.named_children():
                    if name in _READERS:
                        linear.weight.copy_((linear.weight.double() * norm.weight.double()) @ rotation)
                    elif name in _WRITERS:
                        linear.weight.copy_(rotation.T @ linear.weight.double())
                norm.weight.fill_(1.0)
    model.config.tie_word_embeddings = False


def orthogonal(size: int) -> Any:
    """A random orthogonal matrix of a fixed seed, in FP64."""
    import torch

    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    return q * r.diagonal().sign()
