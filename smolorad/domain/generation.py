"""Generation: the request and its outcome."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from smolorad.domain.bounds import within


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings."""

    max_tokens: int = within(200, least=1)
    temperature: float = within(1.0, least=0.0, most=10.0)
    top_p: float = within(1.0, above=0.0, most=1.0)
    top_k: int = within(0, least=0)
    min_p: float = within(0.0, least=0.0, most=1.0)
    repetition_penalty: float = within(1.0, above=0.0, most=100.0)
    stop: tuple[str, ...] = ()
    seed: int | None = within(None, least=0, most=2**63 - 1)
    typical_p: float = within(1.0, above=0.0, most=1.0)
    epsilon_cutoff: float = within(0.0, least=0.0, below=1.0)
    eta_cutoff: float = within(0.0, least=0.0, below=1.0)
    top_h: float | None = within(None, above=0.0, most=1.0)
    presence_penalty: float = within(0.0, least=-2.0, most=2.0)
    frequency_penalty: float = within(0.0, least=-2.0, most=2.0)
    no_repeat_ngram_size: int = within(0, least=0, most=1024)
    min_tokens: int = within(0, least=0)
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The form of the generated text. Exactly one field is given."""

    json_schema: str = ""
    json_object: bool = False
    regex: str = ""


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """A token that might have been chosen."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer, and how likely it was by the model itself: natural logarithms, of the unchanged logits."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()


class FinishReason(enum.StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation."""

    prompt_tokens: int
    completion_tokens: int
    remembered_tokens: int = 0  # of the prompt: not computed, as an earlier prompt began alike


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in seconds."""

    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GenerateOutcome:
    """How a generation ended, and the effective value of every parameter."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    sampling: Sampling
    model: str = ""
    adapter: str = ""
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateSpec:
    """A generation request. Exactly one of `prompt` and `messages` is given."""

    prompt: str = ""
    messages: tuple[ChatMessage, ...] = ()
    model: str = ""
    adapter: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    keep_alive: timedelta | None = None
    logprobs: bool = False
    top_logprobs: int = within(0, least=0, most=20)
    response_format: ResponseFormat | None = None
    parse_special: bool = False  # whether the spelling of a control token in prompt or messages is one
