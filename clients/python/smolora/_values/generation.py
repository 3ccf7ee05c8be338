"""Generations and their tokens."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class FinishReason(enum.StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model ended its answer, or a stop string was met
    LENGTH = "length"  # max_tokens, or the end of the context, was reached
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation."""

    prompt_tokens: int
    completion_tokens: int
    remembered_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in seconds."""

    queued_s: float
    prefill_s: float
    decode_s: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """The effective value of every parameter of a generation."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    stop: tuple[str, ...]
    seed: int | None
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    top_h: float | None
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    min_tokens: int
    logit_bias: Mapping[int, float]
    bad_words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """A token that might have been chosen."""

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer, and how likely it was.

    `logprob` is the natural logarithm of its probability by the model itself, before temperature, penalties, truncation and the
    form of the answer change it; `top_logprobs` has the likeliest tokens by the same measure. `token` shows bytes that make no
    whole character as U+FFFD; `token_bytes` has them.
    """

    token_id: int
    token: str
    token_bytes: bytes
    logprob: float
    top_logprobs: tuple[TopLogprob, ...]


@dataclass(frozen=True, slots=True)
class GenerateOutcome:
    """How a generation ended."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    sampling: Sampling
    model: str
    adapter: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of a text, as the loaded model sees it."""

    tokens: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation: a role (`system`, `user`, `assistant`) and what was said."""

    role: str
    content: str
