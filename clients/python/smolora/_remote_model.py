"""Stand-ins for what transformers gives: a model that generates, a tokenizer that encodes and decodes, both in the daemon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from smolora._sync.client import Client
from smolora._sync.streams import Generation
from smolora._values import ResidentModel


@dataclass(frozen=True, slots=True)
class RequestedModel:
    """A model as it was requested, so that it can be loaded again where another one took its place in memory."""

    client: Client
    model: str
    device: str | None = None
    dtype: str | None = None

    def ensure(self) -> ResidentModel:
        """The loaded model; loads it where another one is. Raises BadState while a training runs on another one."""
        return self.client.load(self.model, device=self.device, dtype=self.dtype).result()


@dataclass(frozen=True, slots=True)
class ModelHandle:
    """The loaded model, with an adapter (`name@revision`) or as it is. `config` has its device, number format and size."""

    config: ResidentModel
    adapter: str = ""
    requested: RequestedModel = field(kw_only=True, repr=False)

    @property
    def name(self) -> str:
        """Its name, as it was asked for."""
        return self.config.name

    @property
    def device(self) -> str:
        """Where it computes: `cpu`, `mps` or `cuda`."""
        return self.config.device.value

    def generate(self, prompt: str | None = None, **settings: Any) -> Generation:
        """Continues `prompt`, or answers `messages`: iterate it for pieces of text, or call its `text()`.

        `settings` are those of `Client.generate`: max_new_tokens, temperature, top_p, top_k, seed ...
        """
        self.requested.ensure()
        return self.requested.client.generate(prompt, adapter=self.adapter, **settings)


@dataclass(frozen=True, slots=True)
class TokenizerHandle:
    """The tokenizer of the loaded model."""

    requested: RequestedModel = field(repr=False)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, with the special tokens that it spells and those that the tokenizer adds."""
        if not text:
            return []
        self.requested.ensure()
        return list(self.requested.client.count_tokens(text, parse_special=True).token_ids)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        self.requested.ensure()
        return self.requested.client.decode_tokens(token_ids, skip_special_tokens=skip_special_tokens)

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self.encode(text))
