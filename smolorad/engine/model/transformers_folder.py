"""Reads config, tokenizer and end tokens of a model folder with transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from smolorad.chat.encode import TRIAL
from smolorad.engine.mlx.settings import without_settings
from smolorad.engine.model.folder import CONFIG, GENERATION, read_json
from smolorad.engine.model.quantized import refuse_quantized
from smolorad.engine.runtime.errors import reading
from smolorad.errors import Damaged, UnsupportedModel

# Where neither config nor tokenizer has it.
_CONTEXT_LENGTH = 2048
_MAX_CONTEXT = 2**31 - 1  # of the field in proto
# Keys of a config.json that choose code: transformers has fetched and run what they name (CVE-2026-4372).
_CODE_KEYS = frozenset({"attn_implementation", "experts_implementation"})
# OPT reads it although it looks internal.
_KEPT_KEYS = frozenset({"_remove_final_layer_norm"})


def read_model_config(folder: Path, raw: Mapping[str, Any], name: str, trust_remote_code: bool = False) -> Any:
    """A config as transformers reads it, checked before any code acts on it. `raw` is the content of the folder's config.json.

    Raises UnsupportedModel, Damaged.
    """
    refuse_quantized(raw, name)
    raw = without_settings(raw)
    with reading(folder / CONFIG, "get the model again"):
        if trust_remote_code and "auto_map" in raw:
            return AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
        kind = raw["model_type"]
        _check_generates(raw, name)
        # As in transformers: a Mistral whose layers differ is a Ministral.
        meant = "ministral" if kind == "mistral" and "layer_types" in raw and "ministral" in CONFIG_MAPPING else kind
        config = CONFIG_MAPPING[meant].from_dict(_cleared(raw) | {"model_type": meant})
        text = config.get_text_config()
    _check_text(text, folder / CONFIG)
    return config


def _check_generates(raw: Mapping[str, Any], name: str) -> None:
    kind, architectures = raw["model_type"], raw.get("architectures") or []
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if causal is None or kind not in CONFIG_MAPPING:
        raise UnsupportedModel(f"{name} is a {kind!r}, which is no causal language model; choose one that generates text.")
    if not isinstance(architectures, list):
        raise ValueError(f"architectures is {architectures!r}, which is no list")
    if architectures and not any(known in architectures for known in ([causal] if isinstance(causal, str) else causal)):
        raise UnsupportedModel(
            f"{name} is a {str(architectures[0])[:60]!r}, which does not generate text; choose a causal language model."
        )


def _check_text(config: Any, path: Path) -> None:
    """Checks the keys that smolora reads; most classes do not check them, and some have them under another name."""
    for key, least in (("vocab_size", 1), ("num_hidden_layers", 1), ("hidden_size", 1), ("max_position_embeddings", 1)):
        value = getattr(config, key, None)
        if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and value >= least):
            shown = str(value)[:60]
            raise Damaged(f"{path} has {shown!r} as {key}, which must be a whole number from {least}; get the model again.")


def _cleared(value: Any) -> Any:
    """A config without the keys that choose code, in the configs inside it as well; a leading `_` marks internal keys.

    transformers writes floats that JSON does not have as objects.
    """
    match value:
        case {"__float__": "Infinity" | "-Infinity" | "NaN" as name, **more} if not more:
            return float(name)
        case Mapping():
            return {key: _cleared(inner) for key, inner in value.items() if key in _KEPT_KEYS or _is_plain(key)}
        case list():
            return [_cleared(inner) for inner in value]
    return value


def _is_plain(key: str) -> bool:
    return not key.startswith("_") and key not in _CODE_KEYS


def read_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder, after a trial. Raises Damaged."""
    with reading(f"The tokenizer in {folder}", "get the model again"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        # What serving calls.
        tokenizer.decode(tokenizer.encode(TRIAL, add_special_tokens=True)[:100])
        special, added = tokenizer.special_tokens_map, tokenizer.added_tokens_decoder
        if not all(isinstance(token, str) for token in special.values() if not isinstance(token, list)):
            raise ValueError(f"its special tokens are {special}")
        if any(id < 0 or not isinstance(token.content, str) for id, token in added.items()):
            raise ValueError("its added tokens are no texts")
    return tokenizer


def generation_config(folder: Path, config: Any) -> GenerationConfig:
    """Which tokens end an answer: as in transformers, from generation_config.json, or from the config where there is none.

    Each request here has its own values for everything else. Raises Damaged.
    """
    path = folder / GENERATION
    found = read_json(path).get("eos_token_id") if path.exists() else getattr(config.get_text_config(), "eos_token_id", None)
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
        where = path if path.exists() else folder / CONFIG
        raise Damaged(f"{where} has {str(found)[:60]!r} as eos_token_id, which must be a token's number; get the model again.")
    return GenerationConfig(eos_token_id=ids or None)


def context_length(model: Any, tokenizer: Any) -> int:
    """The number of tokens that a model can see."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = tokenizer.model_max_length
    if length is None and isinstance(limit, int | float) and 1 <= limit < 2**31:  # transformers writes 10^30 for "unknown"
        length = limit
    return min(int(length or _CONTEXT_LENGTH), _MAX_CONTEXT)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, of those that the model can write."""
    given = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = [*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id]
    most = max(model.config.get_text_config().vocab_size, len(tokenizer))
    return frozenset(id for id in ids if id is not None and 0 <= id < most)


def short_context(config: Any) -> int:
    """How many tokens a text may have before all of them are rotated (RoPE) in another way; 0 where there is no end."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [one for one in (rope, *rope.values()) if isinstance(one, Mapping)]  # each kind of layers may have its own
    ends = [
        int(one.get("original_max_position_embeddings") or config.max_position_embeddings)
        for one in kinds
        if one.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(ends, default=0)
