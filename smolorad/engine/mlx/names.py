"""What transformers calls the tensors that mlx-lm has renamed, joined or transposed.

mlx-lm keeps most names of transformers. Its `sanitize` functions change those of some families when a model is converted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The experts of a layer, one tensor for each kind of matrix here, and a tensor for each expert there.
_EXPERTS = re.compile(r"(.+)\.(mlp|block_sparse_moe)\.switch_mlp\.(gate|up|down)_proj\.weight")
_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
_TRANSPOSED = re.compile(r"model\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_GPT_2, _GPT_NEOX = "gpt2", "gpt_neox"


@dataclass(frozen=True, slots=True)
class Name:
    """A tensor of transformers."""

    name: str
    expert: int | None = None  # which part of the stacked ones it is
    transposed: bool = False


def names_of(tensor: str, model_type: str, experts: int) -> tuple[Name, ...]:
    """What transformers calls a tensor; `experts` is its length, which counts where experts are stacked in it."""
    if (found := _EXPERTS.fullmatch(tensor)) is not None:
        layer, module, kind = found.groups()
        called = _MIXTRAL[kind] if module == "block_sparse_moe" else f"{kind}_proj"
        return tuple(Name(f"{layer}.{module}.experts.{at}.{called}.weight", at) for at in range(experts))
    if model_type == _GPT_2 and tensor.startswith("model."):
        return (Name(f"transformer.{tensor.removeprefix('model.')}", transposed=_TRANSPOSED.fullmatch(tensor) is not None),)
    if model_type == _GPT_NEOX and tensor.startswith("model."):
        inner = tensor.removeprefix("model.")
        if inner.startswith("embed_out."):
            return (Name(inner),)
        return (Name(f"gpt_neox.{re.sub('^h[.]', 'layers.', inner)}"),)
    return (Name(tensor),)
