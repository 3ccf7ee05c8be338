"""What serving a described decoder takes besides its weights, without torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smolorad.engine.native.description import Decoder
from smolorad.engine.text.tokenizer import ServingTokenizer

BLUEPRINT, TOKENIZER = "blueprint.json", "backend_tokenizer.json"


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How to serve a model."""

    architecture: str
    decoder: Decoder
    parameters: Mapping[str, Sequence[int]]  # the shape of each, by transformers' name
    sources: Mapping[str, Sequence[str]]  # the tensors in the weight files that give each one, end to end
    context_length: int  # tokens
    end_ids: Sequence[int]
    vocabulary_size: int
    chat_template: str | None
    special: Mapping[str, str]  # `bos_token` and the like

    def tokenizer(self, folder: Path) -> ServingTokenizer:
        """Its tokenizer; `folder` is where the blueprint is kept."""
        return ServingTokenizer((folder / TOKENIZER).read_bytes(), self.chat_template, self.special)
