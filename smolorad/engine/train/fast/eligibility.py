"""Whether the fast trainer can train a model; checked before the training begins.

It relies on what no config says: attention is causal and the only place where tokens meet, positions are numbers, and the head
is what `loss.Head` says. So a short text beside another must give the logits that it gives alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smolorad.domain import TrainerSettings
from smolorad.engine.model.transformers_folder import short_context
from smolorad.engine.train.fast.batching import collate

_LENGTHS = (5, 37)  # tokens, where rows may be so long
# The largest difference that rounding explains, as a share of the largest value.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def reason_not_eligible(trainer: Any, plain: Any, settings: TrainerSettings, max_length: int) -> str:
    """Why a FastTrainer would not train its model as `plain`, the model as it begins, is trained; empty if it would."""
    config = plain.config.get_text_config()
    head = trainer.model.get_base_model().get_output_embeddings()
    if settings.neftune_noise_alpha:
        return "NEFTune's noise depends on padding"
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        return "its output head is more than one product"
    if any(parameter.requires_grad for parameter in head.parameters()):
        return "its output head is trained"
    if trainer.aux_loss_enabled:
        return "its experts have a loss of their own, which depends on how a step is cut"
    if getattr(config, "attention_chunk_size", None) is not None and config.attention_chunk_size < max_length:
        return "its attention is cut into chunks shorter than trainer.max_length"
    if 0 < short_context(config) < max_length:
        return "its positions depend on the longest row of a batch"
    return _difference(trainer, plain, [min(length, max_length) for length in _LENGTHS]) or _missing_window(
        trainer.texts.windows, config, max_length
    )


def _missing_window(windows: Sequence[int | None], config: Any, max_length: int) -> str:
    """Why the windows that the attention modules have handed on are not those of the config; the short texts do not show it."""
    window = getattr(config, "sliding_window", None)
    if window is None or window >= max_length or not getattr(config, "use_sliding_window", True):
        return ""
    layers = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    expected = [window if kind == "sliding_attention" else None for kind in layers]
    return "" if list(windows) == expected else "its attention does not say which of its layers have a window"


@torch.no_grad()
def _difference(trainer: Any, plain: Any, lengths: Sequence[int]) -> str:
    device = next(plain.parameters()).device
    texts = [(torch.arange(length) * 7 + 11) % plain.config.get_text_config().vocab_size for length in lengths]
    inputs = {name: tensor.to(device) for name, tensor in collate([_row(text) for text in texts]).items()}
    trainer.model.eval()
    try:
        got = trainer.head.logits(trainer.hidden_states(inputs))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f"it cannot take several texts in one row ({type(error).__name__}: {error})"
    expected = torch.cat([plain(input_ids=text[None].to(device), use_cache=False).logits[0] for text in texts])
    difference = (got - expected).abs().max() / expected.abs().max()
    if not difference <= _TOLERANCE.get(plain.dtype, 1e-2):
        return f"texts in one row come out {difference:.2g} different from what they are alone"
    return ""


def _row(text: Tensor) -> dict[str, list[int]]:
    return {"input_ids": text.tolist(), "labels": text.tolist()}
