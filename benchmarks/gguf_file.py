"""A model folder as a GGUF in F16, for the peers that read nothing else; made once in the cache.

It has the names, the metadata and the order of rows that llama.cpp expects of Llama, Qwen 3 and Gemma 3. Peers get token ids,
so the tokenizer only has to give every id a spelling.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gemma import SOURCE
from benchmarks.harness import REPOSITORY, PeerMissing
from benchmarks.models import benchmarks_cache
from benchmarks.peers import environments

RECIPE = 1  # raise it when files are written differently
ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "gemma3_text": "gemma3"}
_COMMON = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LLAMA = _COMMON | {"post_attention_layernorm": "ffn_norm"}
_GEMMA = _COMMON | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
Array = NDArray[Any]


def gguf(folder: Path, form: str) -> Path:
    """The model as a GGUF: `f16`, or what llama.cpp makes of that: `q8_0`, `q4_0`, `q4_k_m`. Raises PeerMissing."""
    cache = benchmarks_cache() / "gguf"
    cache.mkdir(exist_ok=True)
    stem = f"{folder.name}-{fingerprint(folder)}-{RECIPE}"
    exact, wanted = cache / f"{stem}-f16.gguf", cache / f"{stem}-{form}.gguf"
    if not exact.exists():
        partial = exact.with_suffix(".part")
        write_f16(folder, partial)
        partial.rename(exact)
    if not wanted.exists():
        _quantize(exact, wanted, form)
    return wanted


def fingerprint(folder: Path) -> str:
    """Changes with the folder's config and weights."""
    seen = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        seen.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return seen.hexdigest()[:12]


def _quantize(exact: Path, to: Path, form: str) -> None:
    if reason := environments.reason_missing("llama_cpp"):
        raise PeerMissing(f"llama.cpp makes {form} of F16, and {reason}")
    partial = to.with_suffix(".part")
    command = [environments.python("llama_cpp"), "-m", "benchmarks.peers.llama_cpp_quantize", exact, partial, form]
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerMissing(f"llama.cpp could not make {form} of {exact.name}: status {done.returncode}")
    partial.rename(to)


def write_f16(folder: Path, path: Path) -> None:
    """Writes the folder's weights and tokenizer. Raises PeerMissing for a model of another kind."""
    from gguf import GGUFWriter

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise PeerMissing(f"this benchmark writes no GGUF of a model of the kind {kind}")
    writer = GGUFWriter(path, ARCHITECTURES[kind])
    _add_config(writer, config)
    if (source := folder / SOURCE).exists():
        _copy_tokenizer(writer, source)
    else:
        _add_tokenizer(writer, folder, config)
    for name, values in _tensors(folder, config):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_config(writer: Any, config: Mapping[str, Any]) -> None:
    rope = config["rope_parameters"]
    writer.add_name(config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(1)  # mostly F16
    if config["model_type"] == "gemma3_text":
        writer.add_sliding_window(config["sliding_window"])


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _copy_tokenizer(writer: Any, source: Path) -> None:
    """The tokenizer of another GGUF, as it is."""
    from gguf import GGUFReader, GGUFValueType

    for name, field in GGUFReader(source).fields.items():
        if name.startswith("tokenizer."):
            of = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], of)


def _add_tokenizer(writer: Any, folder: Path, config: Mapping[str, Any]) -> None:
    from gguf import TokenType

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = content["model"]
    if model["type"] != "BPE":
        raise PeerMissing(f"this benchmark writes no GGUF with a tokenizer of the kind {model['type']}")
    spellings = {id: (token, TokenType.NORMAL) for token, id in model["vocab"].items()}
    for token in content["added_tokens"]:
        spellings[token["id"]] = (token["content"], TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED)
    every = [spellings.get(id, (f"[unused {id}]", TokenType.UNUSED)) for id in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # how text is cut into words: peers get no text
    writer.add_token_list([token for token, _ in every])
    writer.add_token_types([kind for _, kind in every])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    ends = config["eos_token_id"]
    writer.add_eos_token_id(ends[0] if isinstance(ends, list) else ends)
    if config.get("bos_token_id") is not None:
        writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)


def _tensors(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """Every tensor by llama.cpp's name: matrices in F16, the rest in F32."""
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in list(file.keys()):
                if name == "lm_head.weight" and config["tie_word_embeddings"]:
                    continue
                tensor = file.get_tensor(name)
                values: Array = tensor.to(torch.float32 if tensor.ndim == 1 else torch.float16).numpy()
                yield gguf_name(name, config["model_type"]), _arranged(name, values, config)
    if config["model_type"] == "llama" and config["rope_parameters"].get("rope_type") == "llama3":
        yield "rope_freqs.weight", rope_factors(config)


def gguf_name(name: str, kind: str) -> str:
    """What llama.cpp calls a tensor of transformers'."""
    stem = name.removesuffix(".weight")
    if stem in _TOP:
        return f"{_TOP[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{(_GEMMA if kind == 'gemma3_text' else _LLAMA)[part]}.weight"


def _arranged(name: str, values: Array, config: Mapping[str, Any]) -> Array:
    if config["model_type"] == "gemma3_text" and values.ndim == 1:
        return values + 1  # llama.cpp has 1 + w of Gemma's norms
    if config["model_type"] == "llama" and (".q_proj." in name or ".k_proj." in name):
        return interleaved(values, _head_dim(config))
    return values


def interleaved(values: Array, head_dim: int) -> Array:
    """A head's rows i and i + head_dim / 2 as neighbours: llama.cpp's RoPE for Llama rotates neighbours."""
    rows, columns = values.shape
    halves = values.reshape(rows // head_dim, 2, head_dim // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def rope_factors(config: Mapping[str, Any]) -> Array:
    """By how much Llama 3 divides each frequency of RoPE."""
    rope = config["rope_parameters"]
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    factors = []
    for index in range(0, _head_dim(config), 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / _head_dim(config))
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(rope["factor"])
        else:
            smooth = (low / wavelength * rope["low_freq_factor"] - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)
