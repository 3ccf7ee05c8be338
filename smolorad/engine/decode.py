"""The computation of one generation, a step at a time. Knows nothing of text."""

from __future__ import annotations

import inspect
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from smolorad.domain import Precision
from smolorad.engine.native.step import MAX_ROWS, Lora, NativeModel, Part
from smolorad.engine.sampling import Sampler
from smolorad.errors import NotFinite

# Tokens of the prompt that one step computes: long enough to be efficient, short enough that others get their turn.
PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Native:
    """The native step of a model, and the adapter in it."""

    model: NativeModel
    lora: Lora | None = None


class Sequence:
    """Prompt and answer as token ids, and the keys and values of those already computed.

    Each step computes the next tokens that have no keys and values yet: a chunk of the prompt, or the one token chosen last.
    So prefill and decode are the same operation. The native step computes it, where there is one; but torch, with its larger
    products, is faster for a long prompt on exact weights.
    """

    def __init__(self, model: Any, prompt: Ids[int], sampler: Sampler, native: Native | None = None) -> None:
        self._model = model
        self._native = native
        self._device = next(model.parameters()).device
        self._sampler = sampler
        self._forward_options = {"use_cache": True} | _only_last_logits(model)
        self._ids = torch.empty((1, len(prompt) + sampler.sampling.max_tokens), dtype=torch.long)  # on the CPU
        self._ids[0, : len(prompt)] = torch.tensor(prompt)
        self._length = len(prompt)
        self._again = False
        self._forget()

    @property
    def native(self) -> NativeModel | None:
        """Who computes the next step, if it is the native one, which may compute other sequences' with it."""
        if self._native is None:
            return None
        native, left = self._native.model, self._length - self._computed
        return native if left <= MAX_ROWS or native.precision is not Precision.EXACT else None

    def part(self, most: int = MAX_ROWS) -> Part:
        """The next step, for `native`: at most so many tokens."""
        assert self._native is not None
        tokens = self._ids[0, self._computed : min(self._computed + most, self._length)].tolist()
        return Part(tokens, self._cache, self._native.lora)

    def step(self, logits: Tensor | None = None) -> int | None:
        """Computes once; the token that was chosen, or None while the prompt is not yet through.

        `logits` (1, vocabulary) come from `part`, where `native` has computed it already.
        Raises NotFinite if the logits stay NaN or infinite when everything is computed again, once.
        """
        if logits is None:
            logits = self._compute()
        if self._native is not None:
            self._computed = self._cache.length
        if self._computed < self._length:
            return None
        if not torch.isfinite(logits.max()):  # NaN wins every max; a masked vocabulary's -inf does not
            self._compute_again()
            return None
        token = self._sampler.choose(self._ids[:, : self._length], logits)
        if self._length < self._ids.shape[1]:
            self._ids[0, self._length] = token
        self._length += 1
        return token

    @torch.inference_mode()
    def _compute(self) -> Tensor:
        """The logits (1, vocabulary) after the next step, in fp32 on the CPU: all choosing happens there."""
        if (native := self.native) is not None:
            return native.step([self.part()])
        ids = self._ids[:, self._computed : min(self._computed + PREFILL_CHUNK, self._length)]
        self._computed += ids.shape[1]
        output = self._model(input_ids=ids.to(self._device), past_key_values=self._cache, **self._forward_options)
        logits: Tensor = output.logits[:, -1, :].to(device="cpu", dtype=torch.float32, copy=True)
        return logits

    def _compute_again(self) -> None:
        # Seen on MPS with a cache that had grown for long (transformers#47396); a fresh one cured it.
        if self._again:
            raise NotFinite("The model's logits are not finite numbers; load it in float32, or train the adapter again.")
        self._again = True
        self._forget()

    def _forget(self) -> None:
        capacity = self._ids.shape[1]
        self._cache: Any = (
            DynamicCache(config=self._model.config) if self._native is None else self._native.model.cache(capacity)
        )
        self._computed = 0


def _only_last_logits(model: Any) -> dict[str, int]:
    """The option that spares the head's product over the whole prompt, where the architecture has it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
