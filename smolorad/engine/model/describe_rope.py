"""Reads the rotary position embeddings off one of transformers' models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from smolorad.engine.native.description import Rope

# Their frequencies stay what they are while a sequence grows.
_STEADY = frozenset({"default", "linear", "llama3", "yarn"})
_LONG = "longrope"  # one set of frequencies for sequences of the original length, and another for longer ones


class NotDescribed(Exception):
    """The native step does not compute such a model; the message says why."""


@dataclass(frozen=True, slots=True)
class ReadRope:
    """A rotation, and what takes its place in sequences of more than `short_context` tokens, if anything does."""

    short: Rope
    long: Rope | None = None
    short_context: int = 0


def read_ropes(body: Any, config: Any, *, interleaved: bool) -> tuple[Sequence[ReadRope], Mapping[str, int]]:
    """All rotations of a model, and which of them the layers of each kind have; the kind "" stands for all layers.

    Raises NotDescribed for a rotation that the native step does not compute.
    """
    module = getattr(body, "rotary_emb", None)
    if module is None:
        return [], {}
    if any(buffer.is_meta for buffer in module.buffers()):  # where there are no numbers
        with torch.device("cpu"):
            module = type(module)(config=config)
    types = module.rope_type if isinstance(module.rope_type, dict) else {"": module.rope_type}
    found = [_read_rope(module, config, kind, type_, interleaved) for kind, type_ in types.items()]
    return found, {kind: at for at, kind in enumerate(types)}


def _read_rope(module: Any, config: Any, kind: str, type_: str, interleaved: bool) -> ReadRope:
    prefix = f"{kind}_" if kind else ""
    scale = float(getattr(module, f"{prefix}attention_scaling"))

    def rope(frequencies: Tensor) -> Rope:
        return Rope(tuple(frequencies.to(torch.float32).tolist()), scale, interleaved)

    short = rope(getattr(module, f"{prefix}original_inv_freq"))
    if type_ in _STEADY:
        return ReadRope(short)
    if type_ != _LONG or kind:
        raise NotDescribed(f"its rotation ({type_}) changes while a sequence grows")
    context = int(config.rope_parameters["original_max_position_embeddings"])
    init: Callable[..., tuple[Tensor, float]] = ROPE_INIT_FUNCTIONS[type_]
    return ReadRope(short, rope(init(config, torch.device("cpu"), seq_len=context + 1)[0]), context)
