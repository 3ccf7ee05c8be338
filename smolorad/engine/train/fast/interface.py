"""Attention as transformers' modules call it, for texts that lie end to end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from smolorad.engine.train.fast.attention import attend
from smolorad.engine.train.fast.batching import Segments

NAME = "smolora_segments"
_TEXTS = "smolora_texts"
# What models hand on that changes no score, or is said by the texts.
_WITHOUT_EFFECT = frozenset({"position_ids", "position_embeddings", "use_cache", "output_attentions", "cache_position"})


@dataclass(slots=True)
class Texts:
    """The texts that a model is computing. Each module has it, as not every model hands on what it does not know."""

    segments: Segments | None = None
    windows: list[int | None] = field(default_factory=list)  # of each attention since this was emptied

    def attach(self, model: nn.Module) -> None:
        """Gives it to every module."""
        for module in model.modules():
            setattr(module, _TEXTS, self)

    @staticmethod
    def of(module: Any) -> Texts:
        """What the module's model is computing."""
        texts: Texts = getattr(module, _TEXTS)
        return texts

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, *more: Any, **settings: Any) -> Tensor:
        """`attention.attend` of each text to itself."""
        assert self.segments is not None
        self.windows.append(settings.get("window"))
        return attend(query, key, value, self.segments, scale, *more, **settings)


def _interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """For tensors that are (1, heads, tokens, width). Raises ValueError for what it does not know: it may change the scores."""
    unknown = [name for name, given in more.items() if given is not None and name not in _WITHOUT_EFFECT]
    if attention_mask is not None:
        unknown.append("attention_mask")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        unknown.append("is_causal=False")
    if unknown:
        raise ValueError(f"its attention is given {', '.join(unknown)}")
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    out = Texts.of(module).attend(q, k, v, scale, dropout, window=sliding_window, softcap=softcap)
    return out[None], None


AttentionInterface.register(NAME, _interface)
