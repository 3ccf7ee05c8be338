"""The adapter as a training has it now, for requests before the training is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from peft import LoraConfig
from torch import Tensor

from smolorad.domain import ChatMessage, GenerateSpec, Sampling, TrainerSettings
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.peft import adapter_of
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.train.lora import as_plain_lora
from smolorad.errors import InvalidRequest, SmoloraError
from smolorad.portable import Source


class LiveAdapter:
    """Makes adapters of a training's tensors, and generates from its sample prompts."""

    def __init__(self, base: BaseModel, settings: TrainerSettings, *, as_chat: bool) -> None:
        """With `as_chat` a sample prompt is a question put through the chat template.

        Raises InvalidRequest for a prompt that cannot be answered.
        """
        self._base = base
        self._settings = settings
        self._as_chat = as_chat
        for prompt in settings.sample_prompts:
            try:
                self._request(None, prompt)
            except SmoloraError as error:
                raise InvalidRequest.field("trainer.sample_prompts", f"{prompt[:40]!r} cannot be answered: {error}") from error

    @property
    def source(self) -> Source:
        """What the base is called outside of this machine."""
        return self._base.source

    def adapter(self, tensors: Mapping[str, Tensor], start: Mapping[str, Tensor], config: LoraConfig) -> Adapter:
        """An independent adapter on the base; `start` as in `as_plain_lora`, empty where the base is as it was."""
        if start:
            tensors, config = as_plain_lora(tensors, start, config)
        return adapter_of(self._base, config, tensors)

    def generate(self, adapter: Adapter, prompt: str, yield_to_requests: Callable[[], Any]) -> str:
        """The greedy answer to a prompt; `yield_to_requests` is called between tokens."""
        request, text = self._request(adapter, prompt), ""
        while request.outcome is None:
            text += request.step()
            yield_to_requests()
        return text

    def _request(self, adapter: Adapter | None, prompt: str) -> GenerationRequest:
        sampling = Sampling(max_tokens=self._settings.sample_max_tokens, temperature=0.0)
        asked = {"messages": (ChatMessage("user", prompt),)} if self._as_chat else {"prompt": prompt}
        spec = GenerateSpec(sampling=sampling, **asked)
        return GenerationRequest(0, self._base, spec, adapter=adapter, prefixes=PrefixCache().of(""), arrived=time.monotonic())
