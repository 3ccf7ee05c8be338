"""RoPE of a GGUF file as a config of transformers has it (`rope_parameters`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from smolorad.engine.gguf.architectures import Architecture, head_dim
from smolorad.engine.gguf.metadata import Metadata
from smolorad.errors import Damaged, UnsupportedModel

Factors = Callable[[str], Sequence[float] | None]  # the numbers of a tensor by its name, None where there is none
RopeParameters = dict[str, Any]

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
# Llama 3.1 and later: its first context, and from which wavelengths on its frequencies are divided.
_LLAMA_3 = {"original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_CLOSE = 1e-4
_BY_LAYER = frozenset({"gemma3_text", "olmo3"})  # windows rotate by angles of their own
_PARTIAL = frozenset({"glm", "glm4", "gpt_neox", "nemotron", "phi", "phi3", "stablelm"})
_YARN = {
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}


def rope_fields(m: Metadata, architecture: Architecture, factors: Factors) -> dict[str, Any]:
    """The fields of a config that say how queries and keys are rotated.

    Raises UnsupportedModel for a kind of scaling that is not known, Damaged for values that cannot be.
    """
    width = head_dim(m)
    rotated = m.whole("rope.dimension_count", width)

    def fitting(name: str) -> Sequence[float] | None:
        found = factors(name)
        if found is not None and len(found) != rotated // 2:
            raise Damaged(f"{m.path} has {len(found)} numbers in {name}, not {rotated // 2}; download it again.")
        return found

    rope = _scaled(m, fitting)
    if architecture.model_type in _PARTIAL:
        if not 0 < rotated <= width:
            raise m.damaged("rope.dimension_count")
        rope["partial_rotary_factor"] = rotated / width
    elif rotated != width:
        raise UnsupportedModel(
            f"{m.path} rotates {rotated} of {width} numbers of a head, and {architecture.class_name} rotates all; "
            "load the model that it was made from."
        )
    original = {"original_max_position_embeddings": rope["original_max_position_embeddings"]} if rope.get("long_factor") else {}
    if architecture.model_type not in _BY_LAYER:
        return {"rope_parameters": rope, **original}
    windows = {"rope_type": "default", "rope_theta": m.positive("rope.freq_base_swa", _window_base(architecture, rope))}
    return {"rope_parameters": {"full_attention": rope, "sliding_attention": windows}}


def _window_base(architecture: Architecture, rope: RopeParameters) -> float:
    return 10_000.0 if architecture.model_type == "gemma3_text" else float(rope["rope_theta"])


def _scaled(m: Metadata, factors: Factors) -> RopeParameters:
    rope: RopeParameters = {"rope_type": "default", "rope_theta": m.positive("rope.freq_base", _base(m))}
    context = m.whole("context_length")
    if (divisors := factors(FREQUENCIES)) is not None:
        return rope | _divided(divisors, rope["rope_theta"], context)
    if (long := factors(LONG)) is not None and (short := factors(SHORT)) is not None:
        original = m.whole("rope.scaling.original_context_length", context)
        found: RopeParameters = {"rope_type": "longrope", "long_factor": list(long), "short_factor": list(short)}
        if (scale := m.optional("rope.scaling.attn_factor")) is not None and not _is_usual(scale, context, original):
            found["attention_factor"] = m.real("rope.scaling.attn_factor")
        return rope | found | {"original_max_position_embeddings": original, "factor": context / max(original, 1)}
    kind = m.optional("rope.scaling.type")
    match kind:
        case None | "none":
            linear = m.positive("rope.scale_linear", 1.0)
            return rope if linear == 1.0 else rope | {"rope_type": "linear", "factor": linear}
        case "linear":
            return rope | {"rope_type": "linear", "factor": m.positive("rope.scaling.factor")}
        case "yarn":
            found = {"rope_type": "yarn", "factor": m.positive("rope.scaling.factor")}
            found["original_max_position_embeddings"] = m.whole("rope.scaling.original_context_length")
            given = {ours: m.real(theirs) for theirs, ours in _YARN.items() if m.optional(theirs) is not None}
            return rope | found | given
        case "longrope":
            return rope  # without its factors nothing is scaled
    raise UnsupportedModel(
        f"{m.path} scales RoPE by {str(kind)[:40]!r}, which is not known; load the model that it was made from."
    )


def _base(m: Metadata) -> float:
    return 1_000_000.0 if m.architecture == "gemma3" else 10_000.0


def _is_usual(scale: Any, context: int, original: int) -> bool:
    """Whether longrope's factor for scores is the one that follows from its contexts."""
    longer = context / max(original, 1)
    usual = math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 and original > 1 else 1.0
    return isinstance(scale, int | float) and math.isclose(scale, usual, rel_tol=_CLOSE)


def _divided(divisors: Sequence[float], base: float, context: int) -> RopeParameters:
    """RoPE whose frequencies are divided one by one: Llama 3's, where its rule gives these numbers, else as they are."""
    factor = max(divisors)
    if factor > 1 and np.allclose(divisors, _llama_3_divisors(len(divisors), base, factor), rtol=_CLOSE):
        return {"rope_type": "llama3", "factor": round(factor, 3), **_LLAMA_3}
    same = {"long_factor": list(divisors), "short_factor": list(divisors)}
    return {
        "rope_type": "longrope",
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
        "factor": 1.0,
        **same,
    }


def _llama_3_divisors(pairs: int, base: float, factor: float) -> Any:
    """By what Llama 3 divides each frequency: long waves by `factor`, short ones by 1, and between them by less and less."""
    wavelengths = 2 * math.pi * base ** (np.arange(pairs) / pairs)
    original, low, high = (
        _LLAMA_3["original_max_position_embeddings"],
        _LLAMA_3["low_freq_factor"],
        _LLAMA_3["high_freq_factor"],
    )
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
