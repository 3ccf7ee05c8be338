"""From a row of logits to a token: the processors in `generate`'s order, and a generator of our own.

Where `generate` puts a caller's own processors, between those that forbid and those that only sampling has, stand the two that
transformers does not have: OpenAI's penalties, and the grammar of a response format.
"""

from __future__ import annotations

import dataclasses
import random
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from smolorad.domain import Sampling
from smolorad.engine.generate.logits_processors import (
    Bias,
    MinNewTokens,
    MinP,
    NoBadWords,
    NoRepeatNGram,
    OccurrencePenalties,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    likelihoods,
)
from smolorad.engine.generate.logprobs import Logprobs
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.runtime.dtypes import Ids, Scores
from smolorad.engine.runtime.gc import gc_paused
from smolorad.engine.text.grammar.grammar import Grammar
from smolorad.errors import InvalidRequest


def with_seed(sampling: Sampling) -> Sampling:
    """The same with a seed: drawn where none is given."""
    return sampling if sampling.seed is not None else dataclasses.replace(sampling, seed=secrets.randbits(63))


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingContext:
    """What the choice depends on besides the settings and the scores."""

    prompt_tokens: int = 0
    end_ids: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()  # each as token ids
    grammar: Grammar | None = None

    @classmethod
    def of(cls, sampling: Sampling, base: BaseModel, prompt_tokens: int, grammar: Grammar | None = None) -> SamplingContext:
        """The context of a request to `base`; raises InvalidRequest for a bias on a token that the model does not have."""
        vocabulary_size = base.vocabulary_size
        if (unknown := next((token for token in sampling.logit_bias if not 0 <= token < vocabulary_size), None)) is not None:
            raise InvalidRequest.field(
                "sampling.logit_bias",
                f"has token {unknown}, but tokens must be at least 0 and below {vocabulary_size:,}",
            )
        bad_words = bad_word_ids(base.tokenizer, sampling.bad_words)
        known = tuple(word for word in bad_words if max(word) < vocabulary_size)
        return cls(prompt_tokens, base.end_ids, known, grammar)


def bad_word_ids(tokenizer: Any, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each word's token ids, as it begins a text and as it follows a space: to most tokenizers these are two words."""
    spellings = (spelling for word in words for spelling in (word.lstrip(), " " + word.lstrip()))
    ids = (tuple(tokenizer.encode(spelling, add_special_tokens=False)) for spelling in spellings)
    return tuple(dict.fromkeys(one for one in ids if one))


def processors(sampling: Sampling, context: SamplingContext | None = None) -> Iterator[Processor]:
    """What changes the scores before the choice, as `generate` composes it."""
    context = context or SamplingContext()
    if sampling.logit_bias:
        yield Bias(sampling.logit_bias)
    if sampling.repetition_penalty != 1.0:
        yield RepetitionPenalty(sampling.repetition_penalty)
    if sampling.no_repeat_ngram_size > 0:
        yield NoRepeatNGram(sampling.no_repeat_ngram_size)
    ends = sorted(context.end_ids)
    if bad_words := [word for word in context.bad_words if list(word) not in [[end] for end in ends]]:
        yield NoBadWords(bad_words)
    if sampling.min_tokens > 0 and ends:
        yield MinNewTokens(context.prompt_tokens, sampling.min_tokens, ends)
    if sampling.presence_penalty or sampling.frequency_penalty:
        yield OccurrencePenalties(sampling.presence_penalty, sampling.frequency_penalty, context.prompt_tokens)
    if context.grammar is not None:
        yield context.grammar
    if sampling.temperature > 0.0:
        yield from _of_sampling(sampling)


def _of_sampling(sampling: Sampling) -> Iterator[Processor]:
    """Those that `generate` has only where it samples."""
    if sampling.temperature != 1.0:
        yield Temperature(sampling.temperature)
    rare = sampling.top_h is not None or sampling.typical_p < 1.0 or sampling.epsilon_cutoff > 0.0 or sampling.eta_cutoff > 0.0
    if rare:
        with gc_paused():
            from smolorad.engine.generate import transformers_processors  # which brings torch, and most engines never need it

        yield from transformers_processors.before_top_k(sampling)
    if sampling.top_k > 0:
        yield TopK(sampling.top_k)
    if sampling.top_p < 1.0:
        yield TopP(sampling.top_p)
    if sampling.min_p > 0.0:
        yield MinP(sampling.min_p)
    if rare:
        yield from transformers_processors.after_min_p(sampling)


class Sampler:
    """Chooses tokens in double precision, so that a seed means the same on every device, by a generator of its own."""

    def __init__(self, sampling: Sampling, context: SamplingContext | None = None, logprobs: Logprobs | None = None) -> None:
        """`logprobs` records what is chosen."""
        self.sampling = sampling
        context = context or SamplingContext()
        self._grammar = context.grammar
        self._logprobs = logprobs
        self._processors = list(processors(sampling, context))
        self._forbids = bool(context.grammar or context.bad_words or sampling.no_repeat_ngram_size)
        self._generator = random.Random(sampling.seed)

    def choose(self, ids: Ids, logits: Scores) -> int:
        """The next token after `ids` (tokens,), from `logits` (vocabulary,).

        The choice is final: the grammar advances. Where penalties forbid every token that the grammar allows, the grammar alone
        counts.
        """
        scores = logits
        for processor in self._processors:
            scores = processor(ids, scores)
        if self._forbids and scores.max() == -np.inf:
            scores = logits if self._grammar is None else self._grammar(ids, logits)
        token = int(scores.argmax()) if self.sampling.temperature == 0.0 else self._draw(scores)
        if self._logprobs is not None:
            self._logprobs.note(token, logits)
        if self._grammar is not None:
            self._grammar.advance(token)
        return token

    @property
    def complete(self) -> bool:
        """Whether the grammar is complete, so that no token may follow."""
        return self._grammar is not None and self._grammar.complete

    def _draw(self, scores: Scores) -> int:
        """A token, each with the probability that softmax gives it."""
        weights = likelihoods(scores)
        possible = np.flatnonzero(weights)
        reached = np.cumsum(weights[possible])
        at = int(np.searchsorted(reached, self._generator.random() * reached[-1], side="right"))
        return int(possible[min(at, len(possible) - 1)])
