"""Computes logits with a model of transformers, and finds out how far its cache can be trusted.

Most models take any number of tokens after any others. Some keep a state that advances token by token, and restart it when
several tokens come at once; a few take no cache, or take one and ignore it. A model's code does not say which, so each model is
tried once when it is loaded.
"""

from __future__ import annotations

import functools
import inspect
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from smolorad.engine.model.runner import CacheSupport
from smolorad.engine.model.torch_kv_cache import TorchKvCache, as_transformers
from smolorad.engine.model.transformers_folder import short_context
from smolorad.engine.native.kv_cache import KvCache

log = logging.getLogger("smolorad.engine")

# A first chunk, more at once, then single tokens. Few, as a model may be large and its device slow.
_TRIAL_TOKENS, _BEGINNING, _SINGLE = 12, 6, 2
# The largest difference that rounding explains, relative to the largest logit: an ignored cache is far above it.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_CACHE_PARAMETERS = frozenset({"past_key_values", "cache_params"})


class TorchRunner:
    """Runs a model of transformers."""

    def __init__(self, model: Any, cache_support: CacheSupport) -> None:
        self.model = model
        self.cache_support = cache_support
        self.short_context = short_context(model.config)

    def cache(self) -> TorchKvCache | None:
        """An empty cache; None where the model works without one."""
        return TorchKvCache(self.model.config) if self.cache_support is not CacheSupport.NONE else None

    @torch.inference_mode()
    def compute(self, ids: NDArray[np.int64], cache: KvCache | TorchKvCache | None, begin: int) -> NDArray[np.float32]:
        """The logits (1, vocabulary) after the last of `ids` (tokens,); `cache` has the `begin` tokens before them."""
        logits: NDArray[np.float32] = forward(self.model, torch.from_numpy(ids)[None], as_transformers(cache), begin).numpy()
        return logits


def forward(model: Any, ids: Tensor, cache: Any | None = None, begin: int = 0, *, every: bool = False) -> Tensor:
    """The logits (1, vocabulary) after the last of `ids` (1, tokens), or (tokens, vocabulary) after each; fp32 on the CPU.

    `cache` has the `begin` tokens before them, and has these too afterwards.
    """
    device = next(model.parameters()).device
    known = _parameters(model.__class__)
    options: dict[str, Any] = {"use_cache": cache is not None} if cache is not None or "use_cache" in known else {}
    if cache is not None:
        options["cache_params" if "cache_params" in known else "past_key_values"] = cache
    if "position_ids" in known:  # without them Bamba restarts at 0
        options["position_ids"] = torch.arange(begin, begin + ids.shape[1], device=device)[None]
    if "logits_to_keep" in known and not every:  # saves the head's product over the whole prompt
        options["logits_to_keep"] = 1
    logits: Tensor = model(input_ids=ids.to(device), **options).logits[0, 0 if every else -1 :]
    return logits.to(device="cpu", dtype=torch.float32, copy=True)


@torch.inference_mode()
def find_cache_support(model: Any) -> CacheSupport:
    """The largest steps whose logits equal those of one forward pass without a cache."""
    if not _parameters(model.__class__) & _CACHE_PARAMETERS:
        return CacheSupport.NONE  # in bfloat16 a last token that weighs much more than the text before it may pass the trial
    ids = sample_ids(model, _TRIAL_TOKENS)
    expected = forward(model, ids, every=True)[_BEGINNING:]
    singles = [1] * _SINGLE
    for steps, sizes in (
        (CacheSupport.CHUNKS, [_BEGINNING, _TRIAL_TOKENS - _BEGINNING - _SINGLE, *singles]),
        (CacheSupport.SINGLE_TOKENS, [_BEGINNING, *[1] * (_TRIAL_TOKENS - _BEGINNING)]),
    ):
        try:
            got = _in_steps(model, ids, sizes)
        except Exception as error:  # noqa: BLE001  # a model that needs a cache of its own may raise anything
            log.debug("%s does not compute %s: %s", type(model).__name__, steps.value, error)
            continue
        # The median, since rounding may choose another expert for a token or two.
        difference = (got - expected).abs().amax(dim=1).median() / expected.abs().max()
        if float(difference) <= _TOLERANCE[model.dtype]:
            return steps
    return CacheSupport.NONE


def sample_ids(model: Any, tokens: int) -> Tensor:
    """Token ids (1, tokens) from all over a model's vocabulary."""
    ids: Tensor = torch.arange(tokens) * 7919 % model.config.get_text_config().vocab_size
    return ids[None]


def _in_steps(model: Any, ids: Tensor, sizes: list[int]) -> Tensor:
    """The logits after each token that follows the first step."""
    cache = DynamicCache(config=model.config)
    rows, begin = [], 0
    for size in sizes:
        rows.append(forward(model, ids[:, begin : begin + size], cache, begin, every=True))
        begin += size
    return torch.cat(rows[1:])


@functools.cache
def _parameters(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
