"""A model folder, as far as it is known without loading it, and why a folder is no model that smolora loads."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from smolora.common.adapter_config import adapter_instead, is_adapter
from smolora.common.json_file import NotAnObject, read_object
from smolorad import publish
from smolorad.domain import ModelFacts
from smolorad.engine.gguf.layout import LAYOUT
from smolorad.engine.gguf.weights import GgufWeights
from smolorad.engine.mlx.settings import MlxSettings, without_settings
from smolorad.engine.mlx.weights import MlxWeights
from smolorad.engine.model.decoded_weights import DecodedWeights
from smolorad.engine.model.quantized import mlx_settings, refuse_packed, refuse_quantized
from smolorad.engine.model.size_check import Stored, check_layers
from smolorad.errors import Damaged, NotFound, UnsupportedModel
from smolorad.gguf import gguf_files
from smolorad.safetensors_file import SafetensorsFile, StoredTensor

CONFIG, GENERATION = "config.json", "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What a model needs of its folder: no pickles, no second copies in other formats.
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
_ADVICE = "download the model again"


WeightFile = SafetensorsFile | DecodedWeights


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with a model that smolora loads. Its config and the headers of its weights are read once, when it is opened."""

    path: Path
    name: str  # in messages, and in the owner's config file
    config: Mapping[str, Any]  # the content of config.json, without what MLX adds to it
    weights: tuple[WeightFile, ...]  # sorted by name; every tensor of an index is in them
    trust_remote_code: bool  # whether the model may bring code of its own

    @classmethod
    def open(cls, path: Path, *, name: str = "", trust_remote_code: bool = False) -> Self:
        """Reads config and headers, and checks the folder; `name` is by default its path.

        Raises NotFound where there is no folder, UnsupportedModel for one without config, safetensors or tokenizer, or with
        code of its own that is not allowed, Damaged for files that are cut short or missing, or a config with more layers than
        weights.
        """
        name = name or str(path)
        _check_kind(path, name)
        config = read_config(path)
        by_mlx = mlx_settings(config, name)
        refuse_quantized(config, name)
        if not trust_remote_code:
            _refuse_code(path, name)
        if not any((path / file).is_file() for file in TOKENIZERS):
            raise UnsupportedModel(f"{name} has no tokenizer; copy tokenizer.json and tokenizer_config.json into {path}.")
        weights = _open_weights(path, name)
        tensors = [tensor for file in weights for tensor in file.tensors]
        refuse_packed(tensors, name, packed_by_mlx=by_mlx is not None)
        if not tensors:
            raise Damaged(f"The weights in {path} hold no tensors; get the model again.")
        if by_mlx is not None:
            config, weights = without_settings(config), (_of_mlx(weights, by_mlx, config),)
        folder = cls(path, name, config, weights, trust_remote_code)
        check_layers(config, folder.stored, path / CONFIG)
        return folder

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """The tensors of all weight files, of each in the order of their bytes."""
        return tuple(tensor for file in self.weights for tensor in file.tensors)

    @property
    def stored(self) -> Stored:
        """The sizes of all tensors."""
        return Stored.of([(tensor.name, tensor.shape) for tensor in self.tensors])

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.size for file in self.weights)

    @property
    def architecture(self) -> str:
        """`model_type` in its config."""
        return str(self.config["model_type"])

    def inspect(self, sums: Mapping[str, str] = MappingProxyType({})) -> ModelFacts:
        """Fingerprint, architecture and number of parameters. Raises as `fingerprint`."""
        return ModelFacts(self.fingerprint(sums), self.architecture, self.count_parameters())

    def fingerprint(self, sums: Mapping[str, str] = MappingProxyType({})) -> str:
        """SHA-256 over the names and sums of the weight files, in hexadecimal.

        Reads every byte of the files whose SHA-256 `sums` does not have, by name, and is not known. Raises Damaged if a file is
        not what the manifest of its published folder says, or the hub's cache.
        """
        found: dict[str, str] = {}
        for file in self.weights:
            if isinstance(file, SafetensorsFile):
                found[file.path.name] = sums.get(file.path.name) or publish.sha256_file(file.path)
            else:
                found |= file.sums(sums)
        published = _manifest_of(self.path)
        for name, digest in found.items():
            entry = published.get(name)
            expected = entry["sha256"] if entry is not None else hub_sum(self.path / name)
            if expected is not None and expected != digest:
                raise Damaged(f"{self.path / name} is not as it was published; delete the model and make it again.")
        return publish.fingerprint({"files": {name: {"sha256": digest} for name, digest in found.items()}})

    def files(self) -> list[Path]:
        """The files that make up the model, sorted by name; its own Python files only where it may run them."""
        patterns = MODEL_FILES + (CODE_FILES if self.trust_remote_code else ())
        return [p for p in sorted(self.path.iterdir()) if p.is_file() and any(fnmatch.fnmatch(p.name, one) for one in patterns)]

    def small_files(self) -> list[Path]:
        """The same without the weights."""
        return [path for path in self.files() if ".safetensors" not in path.name]

    def count_parameters(self) -> int:
        """The number of parameters, by the headers of its weights."""
        numbers = [tensor for tensor in self.tensors if tensor.format.startswith(("F", "BF"))]
        tied = _OUTPUTS if self.config.get("tie_word_embeddings") else ()
        return sum(tensor.count for tensor in numbers if tensor.name not in tied and not tensor.name.endswith(_BUFFERS))


def read_config(folder: Path) -> Mapping[str, Any]:
    """The content of config.json; raises Damaged where it cannot be read, UnsupportedModel where it names no architecture."""
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise UnsupportedModel(f"{path} names no `model_type`; choose a model that transformers can load.")
    return config


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file; raises Damaged where there is none."""
    try:
        return read_object(path)
    except NotAnObject as error:
        raise Damaged(f"{path} {error}; get the model again.") from error


def hub_sum(path: Path) -> str | None:
    """The SHA-256 by which the hub's cache calls a large file's content; None for any other file."""
    name = path.resolve().name
    return name if path.is_symlink() and path.resolve().parent.name == "blobs" and _SHA256.fullmatch(name) else None


def _check_kind(folder: Path, name: str) -> None:
    """Raises NotFound, and UnsupportedModel for a folder that has no config of a model."""
    if not folder.is_dir():
        raise NotFound(f"There is no folder {folder}; give the absolute path of a model folder.")
    if (folder / CONFIG).is_file():
        return
    if is_adapter(folder):
        raise UnsupportedModel(adapter_instead(name))
    if next(folder.glob("*.gguf"), None) is not None:
        raise UnsupportedModel(f"{name} has no {CONFIG}, but a model as GGUF; load the file by its path, or import it.")
    raise UnsupportedModel(f"{name} is not a model folder, for it has no {CONFIG}; choose a Hugging Face model folder.")


def _open_weights(folder: Path, name: str) -> tuple[WeightFile, ...]:
    """Raises UnsupportedModel where there are no safetensors, Damaged for what is cut short or missing."""
    if (folder / LAYOUT).is_file():
        return (GgufWeights.open(folder),)
    if (folder / WEIGHTS).is_file():
        return (SafetensorsFile.open(folder / WEIGHTS, _ADVICE),)
    if (folder / INDEX).is_file():
        return _open_shards(folder)
    if is_adapter(folder):
        raise UnsupportedModel(adapter_instead(name))
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise UnsupportedModel(
            f"{name} has its weights as pickles, which can run any code when read; convert it where you trust it, with "
            "`AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`, and load the new folder."
        )
    if files := gguf_files(folder):
        raise UnsupportedModel(f"{name} has its weights as GGUF alone; load {files[0].name} instead of its folder.")
    raise UnsupportedModel(f"{name} has no {WEIGHTS}; choose a model with safetensors weights.")


def _of_mlx(files: Sequence[WeightFile], settings: MlxSettings, config: Mapping[str, Any]) -> MlxWeights:
    return MlxWeights.of([file for file in files if isinstance(file, SafetensorsFile)], settings, config["model_type"])


def _open_shards(folder: Path) -> tuple[WeightFile, ...]:
    placed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise Damaged(f"{folder / INDEX} lists no weights; {_ADVICE}.")
    for file in placed.values():
        if not isinstance(file, str) or not publish.is_file_name(file):
            raise Damaged(f"{folder / INDEX} names {str(file)[:60]!r}, which is no file beside it; {_ADVICE}.")
    paths = [folder / file for file in sorted(set(placed.values()))]
    for path in paths:
        if not path.is_file():
            raise Damaged(f"{path.name} is missing from {folder}, though {INDEX} names it; {_ADVICE}.")
    shards = tuple(SafetensorsFile.open(path, _ADVICE) for path in paths)
    there = {tensor.name for shard in shards for tensor in shard.tensors}
    if absent := sorted(placed.keys() - there):
        raise Damaged(f"The weights in {folder} lack {absent[0]}, though {INDEX} names it; {_ADVICE}.")
    return shards


def _refuse_code(folder: Path, name: str) -> None:
    for file in (CONFIG, "tokenizer_config.json"):
        path = folder / file
        if path.is_file() and "auto_map" in read_json(path):
            raise UnsupportedModel(
                f"{name} wants to run code of its own (`auto_map` in its {file}); if you trust it, put "
                f"`allow_remote_code = [{json.dumps(name)}]` into the daemon's config file and restart the daemon."
            )


def _manifest_of(folder: Path) -> Mapping[str, Any]:
    try:
        files: Mapping[str, Any] = publish.read_manifest(folder)["files"]
    except Damaged:  # most folders were not published by smolora
        return {}
    return files
