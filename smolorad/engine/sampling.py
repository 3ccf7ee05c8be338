"""From a row of logits to a token: transformers' own processors, in `generate`'s order, and a generator of our own."""

from __future__ import annotations

import dataclasses
import secrets

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from smolorad.domain import Sampling


def with_seed(sampling: Sampling) -> Sampling:
    """The same with a seed: drawn where none is given."""
    return sampling if sampling.seed is not None else dataclasses.replace(sampling, seed=secrets.randbits(63))


def processors(sampling: Sampling) -> LogitsProcessorList:
    """What changes the scores before the choice, as `generate` composes it."""
    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature == 0.0:
        return chain
    if sampling.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k > 0:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0.0:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return chain


class Sampler:
    """Chooses tokens on the CPU, so that a seed means the same on every device and the global generator is never touched."""

    def __init__(self, sampling: Sampling) -> None:
        self._processors = processors(sampling)
        self._greedy = sampling.temperature == 0.0
        self._generator = torch.Generator()
        if sampling.seed is not None:
            self._generator.manual_seed(sampling.seed)

    def choose(self, ids: Tensor, logits: Tensor) -> int:
        """The next token after `ids` (1, tokens), from `logits` (1, vocabulary) in fp32; both on the CPU."""
        scores = self._processors(ids, logits)
        if self._greedy:
            return int(scores.argmax(dim=-1))
        probabilities = torch.softmax(scores, dim=-1)
        return int(torch.multinomial(probabilities, num_samples=1, generator=self._generator))
