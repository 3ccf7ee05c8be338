"""From a row of logits to a token: transformers' own processors, in `generate`'s order, and a generator of our own.

Where `generate` puts a caller's own processors, between those that forbid and those that only sampling has, stand the two that
transformers does not have: OpenAI's penalties, and the form of the answer.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from smolorad.domain import Sampling
from smolorad.engine.base import Base
from smolorad.engine.constraint import Constraint
from smolorad.engine.logprobs import Logprobs
from smolorad.errors import InvalidRequest


def with_seed(sampling: Sampling) -> Sampling:
    """The same with a seed: drawn where none is given."""
    return sampling if sampling.seed is not None else dataclasses.replace(sampling, seed=secrets.randbits(63))


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What the choice depends on besides the settings and the scores."""

    prompt_tokens: int = 0
    end_ids: frozenset[int] = frozenset()
    bad_words: tuple[tuple[int, ...], ...] = ()  # each as token ids
    constraint: Constraint | None = None

    @classmethod
    def of(cls, sampling: Sampling, base: Base, prompt_tokens: int, constraint: Constraint | None = None) -> Surroundings:
        """Those of an answer by `base`; raises InvalidRequest for a bias on a token that the model does not have."""
        vocabulary_size = base.model.config.get_text_config().vocab_size
        if (unknown := next((token for token in sampling.logit_bias if not 0 <= token < vocabulary_size), None)) is not None:
            raise InvalidRequest.field(
                "sampling.logit_bias",
                f"holds token {unknown}, but tokens must be at least 0 and below {vocabulary_size:,}",
            )
        bad_words = bad_word_ids(base.tokenizer, sampling.bad_words)
        known = tuple(word for word in bad_words if max(word) < vocabulary_size)
        return cls(prompt_tokens, base.end_ids, known, constraint)


def bad_word_ids(tokenizer: Any, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Each word's token ids, as it begins a text and as it follows a space: to most tokenizers these are two words."""
    spellings = (spelling for word in words for spelling in (word.lstrip(), " " + word.lstrip()))
    ids = (tuple(tokenizer.encode(spelling, add_special_tokens=False)) for spelling in spellings)
    return tuple(dict.fromkeys(one for one in ids if one))


class OccurrencePenalties(LogitsProcessor):
    """OpenAI's two penalties: score - frequency * (times in the answer) - presence * (1 if in the answer).

    The prompt does not count. Source: OpenAI's API reference; in vLLM's order, so that rounding is the same.
    """

    def __init__(self, presence: float, frequency: float, prompt_tokens: int) -> None:
        self._presence, self._frequency, self._prompt_tokens = presence, frequency, prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` (1, vocabulary) after `input_ids` (1, tokens)."""
        tokens, times = input_ids[0, self._prompt_tokens :].unique(return_counts=True)
        penalised = scores.clone()
        penalised[0, tokens] -= self._frequency * times
        penalised[0, tokens] -= self._presence
        return penalised


def processors(sampling: Sampling, around: Surroundings | None = None) -> LogitsProcessorList:
    """What changes the scores before the choice, as `generate` composes it."""
    around = around or Surroundings()
    chain = LogitsProcessorList()
    if sampling.logit_bias:
        chain.append(SequenceBiasLogitsProcessor({(token,): float(bias) for token, bias in sampling.logit_bias.items()}))
    if sampling.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.no_repeat_ngram_size > 0:
        chain.append(NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size))
    ends = sorted(around.end_ids)
    if bad_words := [list(word) for word in around.bad_words if list(word) not in [[end] for end in ends]]:
        chain.append(NoBadWordsLogitsProcessor(bad_words))
    if sampling.min_tokens > 0 and ends:
        chain.append(MinNewTokensLengthLogitsProcessor(around.prompt_tokens, sampling.min_tokens, ends))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chain.append(OccurrencePenalties(sampling.presence_penalty, sampling.frequency_penalty, around.prompt_tokens))
    if around.constraint is not None:
        chain.append(around.constraint)
    if sampling.temperature > 0.0:
        chain.extend(_warpers(sampling))
    return chain


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    """Those that `generate` has only where it samples."""
    chain = LogitsProcessorList()
    if sampling.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_h is not None:
        chain.append(TopHLogitsWarper(sampling.top_h))
    if sampling.top_k > 0:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0.0:
        chain.append(MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p < 1.0:
        chain.append(TypicalLogitsWarper(sampling.typical_p))
    if sampling.epsilon_cutoff > 0.0:
        chain.append(EpsilonLogitsWarper(sampling.epsilon_cutoff))
    if sampling.eta_cutoff > 0.0:
        chain.append(EtaLogitsWarper(sampling.eta_cutoff))
    return chain


class Sampler:
    """Chooses tokens on the CPU, so that a seed means the same on every device and the global generator is never touched."""

    def __init__(self, sampling: Sampling, around: Surroundings | None = None, logprobs: Logprobs | None = None) -> None:
        """`logprobs` takes down what is chosen."""
        self.sampling = sampling
        around = around or Surroundings()
        self._constraint = around.constraint
        self._logprobs = logprobs
        self._processors = processors(sampling, around)
        self._forbids = bool(around.constraint or around.bad_words or sampling.no_repeat_ngram_size)
        self._generator = torch.Generator()
        if sampling.seed is not None:
            self._generator.manual_seed(sampling.seed)

    def choose(self, ids: Tensor, logits: Tensor) -> int:
        """The next token after `ids` (1, tokens), from `logits` (1, vocabulary) in fp32; both on the CPU.

        What it chose is what comes next: the form of the answer moves on. Where nothing is left that may come, because
        penalties forbid all that the form allows, the form alone counts.
        """
        scores = logits
        for processor in self._processors:  # as the list itself does, which looks at each one's signature every time
            scores = processor(ids, scores)
        if self._forbids and scores.max() == -torch.inf:
            scores = logits if self._constraint is None else self._constraint(ids, logits)
        token = int(scores.numpy().argmax()) if self.sampling.temperature == 0.0 else self._draw(scores)
        if self._logprobs is not None:
            self._logprobs.note(token, logits)
        if self._constraint is not None:
            self._constraint.advance(token)
        return token

    @property
    def complete(self) -> bool:
        """Whether the form of the answer is complete, so that nothing may follow."""
        return self._constraint is not None and self._constraint.complete

    def _draw(self, scores: Tensor) -> int:
        probabilities = torch.softmax(scores, dim=-1)
        return int(torch.multinomial(probabilities, num_samples=1, generator=self._generator))
