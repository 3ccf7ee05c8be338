"""What transformers reads of a model folder besides its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from smolorad.engine.facts import CONFIG, read_config
from smolorad.engine.failure import first_line
from smolorad.engine.quantised import refuse_quantised
from smolorad.errors import Damaged, UnsupportedModel

# Where neither the config nor the tokenizer tells.
_CONTEXT_LENGTH = 2048
# Keys of a config.json that choose code: transformers has fetched and run what they name (CVE-2026-4372).
_CODE_KEYS = frozenset({"attn_implementation", "experts_implementation"})


def read_model_config(folder: Path, name: str, trust_remote_code: bool = False) -> Any:
    """The model's config, checked before any code acts on it; raises UnsupportedModel, Damaged."""
    raw = read_config(folder)
    refuse_quantised(raw, name)
    if trust_remote_code and "auto_map" in raw:
        return _made(folder, lambda: AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True))
    kind = raw["model_type"]
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    architectures = raw.get("architectures") or []
    if causal is None or kind not in CONFIG_MAPPING:
        raise UnsupportedModel(f"{name} is a {kind!r}, which is no causal language model; choose one that generates text.")
    if architectures and not any(known in architectures for known in ([causal] if isinstance(causal, str) else causal)):
        raise UnsupportedModel(f"{name} is a {architectures[0]}, which does not generate text; choose a causal language model.")
    # As transformers has it: a Mistral whose layers differ is a Ministral.
    meant = "ministral" if kind == "mistral" and "layer_types" in raw and "ministral" in CONFIG_MAPPING else kind
    return _made(folder, lambda: CONFIG_MAPPING[meant].from_dict(_cleared(raw) | {"model_type": meant}))


def _made(folder: Path, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (ImportError, OSError):  # of the model's own code: a package or a file that it asks for
        raise
    except Exception as error:  # each architecture checks its values with errors of its own
        why = " ".join(str(error).split())[:300].rstrip(".")
        raise Damaged(f"{folder / CONFIG} cannot be used ({why}); get the model again.") from error


def _cleared(value: Any) -> Any:
    """A config without the keys that choose code, also in the configs inside it; those with a leading `_` are internal ones.

    Floats that JSON has not are written by transformers as objects.
    """
    match value:
        case {"__float__": "Infinity" | "-Infinity" | "NaN" as name, **more} if not more:
            return float(name)
        case Mapping():
            return {key: _cleared(inner) for key, inner in value.items() if not key.startswith("_") and key not in _CODE_KEYS}
        case list():
            return [_cleared(inner) for inner in value]
    return value


def read_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """Its tokenizer; raises Damaged."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise Damaged(f"The tokenizer in {folder} cannot be read ({first_line(error)}); get the model again.") from error


def context_length(model: Any, tokenizer: Any) -> int:
    """How many tokens a model can see."""
    told = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if told is None and tokenizer.model_max_length < 2**31:  # transformers writes 10^30 for "not known"
        told = tokenizer.model_max_length
    return int(told or _CONTEXT_LENGTH)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer."""
    told = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = told if isinstance(told, list) else [told]
    return frozenset(id for id in [*ids, tokenizer.eos_token_id] if id is not None)
