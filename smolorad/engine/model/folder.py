"""What a model folder tells without loading it, and why a folder is no model that we load."""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open

from smolora.common.adapter_config import adapter_instead, is_adapter
from smolora.common.json_file import NotAnObject, read_object
from smolorad import publish
from smolorad.domain import ModelFacts
from smolorad.engine.model.quantized import refuse_packed, refuse_quantized
from smolorad.engine.model.size_check import Stored, check_layers
from smolorad.errors import Damaged, NotFound, UnsupportedModel
from smolorad.gguf import gguf_instead

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What a model needs, and nothing else of its folder: no pickles, no second copies in other formats.
MODEL_FILES = (
    CONFIG,
    GENERATION,
    WEIGHTS,
    INDEX,
    "model-*.safetensors",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "LICENSE*",
)
CODE_FILES = ("*.py",)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Saved by some models beside their parameters, and computed anew when they are loaded.
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# The same tensor as the input embeddings where these are tied; some models are saved with both.
_OUTPUTS = ("lm_head.weight", "embed_out.weight")


def inspect(
    folder: Path, *, name: str = "", trust_remote_code: bool = False, sums: Mapping[str, str] = MappingProxyType({})
) -> ModelFacts:
    """Checks a model folder as `check` does, and tells its fingerprint, its architecture and the number of its parameters.

    Reads every byte of the weights once, for those SHA-256 that `sums`, by name, does not have. Raises what `check` raises.
    """
    weights = check(folder, name=name, trust_remote_code=trust_remote_code)
    config = read_config(folder)
    return ModelFacts(fingerprint(weights, sums), config["model_type"], _count_parameters(config, weights))


def check(folder: Path, *, name: str = "", trust_remote_code: bool = False) -> tuple[Path, ...]:
    """The weight files of a folder, if it is a model that we load; reads only headers.

    `name` is what the model is called in messages, and in the owner's config file; default: the folder.
    Raises NotFound where there is no folder, UnsupportedModel for one without config, safetensors or tokenizer, or with code
    of its own that is not allowed, Damaged for files that are cut short or missing, or a config with more layers than weights.
    """
    name = name or str(folder)
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}; give the absolute path of a model folder.")
    if not (folder / CONFIG).is_file():
        if is_adapter(folder):
            raise UnsupportedModel(adapter_instead(name))
        if instead := gguf_instead(folder):
            raise UnsupportedModel(instead)
        raise UnsupportedModel(f"{name} is not a model folder, for it has no {CONFIG}; choose a Hugging Face model folder.")
    config = read_config(folder)
    refuse_quantized(config, name)
    if not trust_remote_code:
        _refuse_code(folder, name)
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise UnsupportedModel(f"{name} has no tokenizer; copy tokenizer.json and tokenizer_config.json into {folder}.")
    weights = weight_files(folder, name)
    tensors = tuple(tensors_of(weights))
    for key, dtype, _ in tensors:
        refuse_packed(key, dtype, name)
    if not tensors:
        raise Damaged(f"The weights in {folder} hold no tensors; get the model again.")
    check_layers(config, Stored.of(tensors), folder / CONFIG)
    return weights


def read_config(folder: Path) -> Mapping[str, Any]:
    """The content of config.json; raises Damaged where it cannot be read, UnsupportedModel where it names no architecture."""
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise UnsupportedModel(f"{path} names no `model_type`; choose a model that transformers can load.")
    return config


def weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The safetensors files that hold the model's weights, sorted by name; every tensor of an index is in them.

    Raises UnsupportedModel where there are none, Damaged for what is cut short or missing.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise UnsupportedModel(
            f"{name} has its weights as pickles, which can run any code when read; convert it where you trust it, with "
            "`AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`, and load the new folder."
        )
    if instead := gguf_instead(folder):
        raise UnsupportedModel(instead)
    raise UnsupportedModel(f"{name} has no {WEIGHTS}; choose a model with safetensors weights.")


def model_files(folder: Path, *, code: bool = False) -> list[Path]:
    """The files of a folder that make up its model, sorted by name; with its own Python files if `code`."""
    patterns = MODEL_FILES + (CODE_FILES if code else ())
    return [p for p in sorted(folder.iterdir()) if p.is_file() and any(fnmatch.fnmatch(p.name, one) for one in patterns)]


def fingerprint(weights: Sequence[Path], known: Mapping[str, str] = MappingProxyType({})) -> str:
    """SHA-256 over the names and sums of weight files, in hexadecimal; `known` are sums by name that need no reckoning.

    Raises Damaged if a file is not what the manifest of its published folder says, or the hub's cache.
    """
    sums = {path.name: {"sha256": known.get(path.name) or publish.sha256_file(path)} for path in weights}
    for path in weights:
        promised = _manifest_of(path.parent).get(path.name)
        expected = promised["sha256"] if promised is not None else hub_sum(path)
        if expected is not None and expected != sums[path.name]["sha256"]:
            raise Damaged(f"{path} is not as it was published; delete the model and make it again.")
    return publish.fingerprint({"files": sums})


def hub_sum(path: Path) -> str | None:
    """The SHA-256 by which the hub's cache calls a large file's content; None for any other file."""
    name = path.resolve().name
    return name if path.is_symlink() and path.resolve().parent.name == "blobs" and _SHA256.fullmatch(name) else None


def _manifest_of(folder: Path) -> Mapping[str, Any]:
    try:
        files: Mapping[str, Any] = publish.read_manifest(folder)["files"]
    except Damaged:  # most folders were published by somebody else
        return {}
    return files


def _refuse_code(folder: Path, name: str) -> None:
    for file in (CONFIG, "tokenizer_config.json"):
        path = folder / file
        if path.is_file() and "auto_map" in read_json(path):
            raise UnsupportedModel(
                f"{name} wants to run code of its own (`auto_map` in its {file}); if you trust it, put "
                f"`allow_remote_code = [{json.dumps(name)}]` into the daemon's config file and restart the daemon."
            )


def _shards(folder: Path) -> tuple[Path, ...]:
    placed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise Damaged(f"{folder / INDEX} lists no weights; download the model again.")
    for file in placed.values():
        if not isinstance(file, str) or not publish.is_file_name(file):
            raise Damaged(f"{folder / INDEX} names {str(file)[:60]!r}, which is no file beside it; download the model again.")
    shards = tuple(folder / file for file in sorted(set(placed.values())))
    for shard in shards:
        if not shard.is_file():
            raise Damaged(f"{shard.name} is missing from {folder}, though {INDEX} names it; download the model again.")
    there = {key for key, _, _ in tensors_of(shards)}
    if absent := sorted(placed.keys() - there):
        raise Damaged(f"The weights in {folder} lack {absent[0]}, though {INDEX} names it; download the model again.")
    return shards


def _count_parameters(config: Mapping[str, Any], weights: Sequence[Path]) -> int:
    tied = bool(config.get("tie_word_embeddings"))
    return sum(
        math.prod(shape)
        for key, dtype, shape in tensors_of(weights)
        if dtype.startswith(("F", "BF")) and not key.endswith(_BUFFERS) and not (tied and key in _OUTPUTS)
    )


def tensors_of(weights: Sequence[Path]) -> Iterator[tuple[str, str, Sequence[int]]]:
    """Name, number format and shape of every tensor, from the files' headers: of each file in the order of their bytes, which
    follow each other without a gap. safetensors makes sure of that, and nobody else reads a header.
    """
    for path in weights:
        try:
            with safe_open(path, framework="numpy") as f:
                for key in f.offset_keys():
                    tensor = f.get_slice(key)
                    yield key, tensor.get_dtype(), tensor.get_shape()
        except SafetensorError as error:
            raise Damaged(f"{path} is cut short or damaged ({error}); download the model again.") from error


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; raises Damaged where there is none."""
    try:
        return read_object(path)
    except NotAnObject as error:
        raise Damaged(f"{path} {error}; get the model again.") from error
