"""The config of a GGUF model, as transformers has it for the same model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smolorad.engine.gguf.architectures import ARCHITECTURES, Architecture, architecture_of
from smolorad.engine.gguf.metadata import Metadata
from smolorad.engine.gguf.rope import Factors, rope_fields
from smolorad.errors import Damaged, UnsupportedModel

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_TOKENS = "tokenizer.ggml.tokens"
_KIND, _MODEL = "general.type", "model"  # others are adapters, projectors of images and statistics
_PROJECTOR = "clip"  # the architecture of projectors, also where the file does not have its kind
_WITHOUT_ROPE = frozenset({"bloom", "gpt2"})
_SPECIAL = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}


def known_architecture(m: Metadata) -> Architecture:
    """The architecture of a file; raises UnsupportedModel for one that is not in the table, and for what is no model."""
    if (kind := m.values.get(_KIND, _MODEL)) != _MODEL:
        raise UnsupportedModel(f"{m.path} is of the kind {str(kind)[:60]!r}, and no model; choose the model's own file.")
    if m.architecture == _PROJECTOR:
        raise UnsupportedModel(f"{m.path} projects images for a model, and is no language model; choose the model's own file.")
    if (architecture := architecture_of(m)) is None:
        raise UnsupportedModel(
            f"{m.path} is a {m.architecture[:60]!r}, which smolora does not read from GGUF (it reads "
            f"{', '.join(sorted(ARCHITECTURES))}); load the safetensors model that it was made from."
        )
    return architecture


def config_fields(m: Metadata, architecture: Architecture, factors: Factors) -> Mapping[str, Any]:
    """The fields of the config; `factors` reads RoPE's tensors.

    Raises Damaged for values that are missing or cannot be, UnsupportedModel for what the class does not compute.
    """
    if m.whole("block_count") > len(m.tensors):
        raise m.damaged("block_count")
    vocabulary = m.length(_EMBEDDING)
    if isinstance(tokens := m.values.get(_TOKENS), list) and len(tokens) > vocabulary:
        raise Damaged(f"{m.path} has {len(tokens):,} tokens, and embeddings of {vocabulary:,}; download it again.")
    fields: dict[str, Any] = {"vocab_size": vocabulary, "tie_word_embeddings": not m.has(_HEAD)}
    for maker in architecture.fields:
        fields |= maker(m)
    if architecture.model_type not in _WITHOUT_ROPE:
        fields |= rope_fields(m, architecture, factors)
    for theirs, ours in _SPECIAL.items():
        found = m.values.get(f"tokenizer.ggml.{theirs}")
        fields[ours] = found if isinstance(found, int) and 0 <= found < vocabulary else None
    return fields | {"architectures": [architecture.class_name]}
