"""Whether regular expressions of an adapter's settings can be matched in a short time.

PEFT matches them with `re`, which tries every way, and which nothing can interrupt. Those that may take long are tried first in
a process of their own, with a time limit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_LIMIT_S = 5.0
_TRY = (
    "import json, re, sys\n"
    "patterns, names = json.load(sys.stdin)\n"
    "for pattern in patterns:\n"
    "    for name in names:\n"
    "        re.match(pattern, name)\n"
)
_REPEAT = re.compile(r"[*+{]")
_PREFIX, _SUFFIX = "base_model.model.", re.compile(r"\.(lora_\w+|base_layer|modules_to_save)\b.*$")
# Module names that most models have.
_COMMON = ("model.layers.11.post_attention_layernorm", "transformer.h.11.attn.c_proj", "model.rotary_emb", "lm_head")


def is_slow(config: Mapping[str, Any], tensors: Iterable[str]) -> bool:
    """Whether the patterns of an adapter's config take more than a few seconds; `tensors` are the names of its weights."""
    patterns = [pattern for own, pattern in _patterns(config) if _may_take_long(own)]
    return bool(patterns) and takes_long(patterns, _modules(tensors))


def is_slow_name(key: str, modules: Iterable[str]) -> bool:
    """Whether a key of `rank_pattern` takes more than a few seconds with these modules of a model."""
    return _may_take_long(key) and takes_long([as_name(key)], list(modules))


def takes_long(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether matching patterns with names takes more than a few seconds. An invalid pattern does not; it is refused later."""
    if not patterns:
        return False
    given = json.dumps([patterns, names]).encode()
    try:
        subprocess.run([sys.executable, "-I", "-c", _TRY], input=given, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return True
    return False


def as_name(key: str) -> str:
    """The expression that PEFT makes of a key of `rank_pattern`."""
    return rf"(.*\.)?({key})$"


def _may_take_long(pattern: str) -> bool:
    """One repeat beside PEFT's own can match in few ways."""
    return len(_REPEAT.findall(pattern)) > 1


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The patterns of an adapter's settings, and what PEFT makes of each."""
    for name in ("target_modules", "exclude_modules"):
        if isinstance(one := config.get(name), str):
            yield one, f"(?:{one})$"
    for key in (*(config.get("rank_pattern") or ()), *(config.get("alpha_pattern") or ())):
        yield key, as_name(key)
    layers = config.get("layers_pattern") or ()
    for one in [layers] if isinstance(layers, str) else layers:
        yield one, rf"(?:^|.*?\.){one}\.(?P<idx>\d+)\."
    for one in config.get("modules_to_save") or ():
        yield one, rf"(^|.*\.){one}($|\..*)"


def _modules(tensors: Iterable[str]) -> list[str]:
    """Module names to try: those of an adapter's tensors, their parents, and near misses."""
    names = {*_COMMON, *(_SUFFIX.sub("", name.removeprefix(_PREFIX)) for name in tensors)}
    around = {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}
    return sorted(around | {f"{name}-" for name in names})
