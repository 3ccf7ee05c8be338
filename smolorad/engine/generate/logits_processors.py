"""What changes scores before a token is chosen: each computes what transformers' processor of that name does, in numpy.

The arithmetic of one number is the same, so scores are equal to the last bit; `TopP` and `MinP` add up in double precision, and
may decide otherwise about a token whose share lies within rounding of the border. Rarely used ones are transformers' own
(`transformers_processors.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.runtime.dtypes import Ids, Scores

Processor = Callable[[Ids, Scores], Scores]

_CANDIDATES = 512  # among which TopP looks first
_BLOCK = 64  # scores in a block of `kth_largest`


@dataclass(frozen=True, slots=True)
class Bias:
    """Adds to tokens' scores."""

    by_token: Mapping[int, float]

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        changed = scores.copy()
        changed[list(self.by_token)] += np.array(list(self.by_token.values()), dtype=np.float32)
        return changed


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Moves the score of every token of the text away from its likelier side. Source: CTRL, N. Keskar and others, 2019."""

    penalty: float

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        changed, penalty = scores.copy(), np.float32(self.penalty)
        tokens = np.unique(ids[ids < len(scores)])
        old = scores[tokens]
        changed[tokens] = np.where(old < 0, old * penalty, old / penalty)
        return changed


@dataclass(frozen=True, slots=True)
class NoRepeatNGram:
    """Forbids a token that would complete a run of `size` tokens that the text has already."""

    size: int

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        if len(ids) < self.size:
            return scores
        windows = np.lib.stride_tricks.sliding_window_view(ids, self.size)
        begins_alike = (windows[:, :-1] == ids[len(ids) + 1 - self.size :]).all(axis=1)
        return _without(scores, windows[begins_alike, -1])


@dataclass(frozen=True, slots=True)
class NoBadWords:
    """Forbids the last token of each of some runs of tokens where the text ends with all before it."""

    words: Sequence[Sequence[int]]

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        return _without(scores, [word[-1] for word in self.words if self._ends_with(ids, word[:-1])])

    def _ends_with(self, ids: Ids, words: Sequence[int]) -> bool:
        return len(words) <= len(ids) and ids[len(ids) - len(words) :].tolist() == list(words)


@dataclass(frozen=True, slots=True)
class MinNewTokens:
    """Forbids the end tokens until `least` tokens are generated."""

    prompt_tokens: int
    least: int
    end_ids: Sequence[int]

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        return _without(scores, self.end_ids) if len(ids) - self.prompt_tokens < self.least else scores


@dataclass(frozen=True, slots=True)
class OccurrencePenalties:
    """OpenAI's two penalties: score - frequency * (times generated) - presence * (1 if generated).

    The prompt does not count. Source: OpenAI's API reference; in vLLM's order, so that rounding is the same.
    """

    presence: float
    frequency: float
    prompt_tokens: int

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        changed = scores.copy()
        tokens, times = np.unique(ids[self.prompt_tokens :], return_counts=True)
        changed[tokens] -= np.float32(self.frequency) * times.astype(np.float32)
        changed[tokens] -= np.float32(self.presence)
        return changed


@dataclass(frozen=True, slots=True)
class Temperature:
    """Divides all scores."""

    temperature: float

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        return scores / np.float32(self.temperature)


@dataclass(frozen=True, slots=True)
class TopK:
    """Leaves the `k` likeliest tokens, and those as likely as the last of them."""

    k: int

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        return np.where(scores < kth_largest(scores, min(self.k, len(scores))), np.float32(-np.inf), scores)


@dataclass(frozen=True, slots=True)
class TopP:
    """Leaves the fewest likeliest tokens whose probabilities add up to `p`. Source: A. Holtzman and others, 2019."""

    p: float

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        weights = likelihoods(scores)
        wanted = self.p * weights.sum()
        count = _CANDIDATES
        while True:  # the candidates nearly always suffice
            least = kth_largest(scores, count) if count < len(scores) else np.float32(-np.inf)
            candidates = np.flatnonzero((scores >= least) & (scores > -np.inf))
            ranked = candidates[np.argsort(scores[candidates], kind="stable")[::-1]]
            before = np.cumsum(weights[ranked]) - weights[ranked]  # of all that are likelier
            if least == -np.inf or before[-1] >= wanted:
                break
            count *= 8
        kept = ranked[before < wanted]
        changed = np.full_like(scores, -np.inf)
        changed[kept] = scores[kept]
        return changed


@dataclass(frozen=True, slots=True)
class MinP:
    """Leaves the tokens at least `p` times as likely as the likeliest. Source: N. Nguyen and others, 2024."""

    p: float

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        return np.where(likelihoods(scores) < self.p, np.float32(-np.inf), scores)


def likelihoods(scores: Scores) -> NDArray[np.float64]:
    """How likely each token is, as a share of the likeliest one's probability."""
    possible = np.flatnonzero(scores > -np.inf)
    few = len(possible) < len(scores)
    shifted = (scores[possible] if few else scores).astype(np.float64)
    shifted -= shifted.max()
    found: NDArray[np.float64] = np.exp(shifted, out=shifted)
    if not few:
        return found
    whole = np.zeros(len(scores))
    whole[possible] = found
    return whole


def kth_largest(scores: Scores, k: int) -> Any:
    """The k-th largest score; -inf where fewer are larger than that.

    At least k scores reach the k-th largest of the blocks' maxima, so that only scores from there on need ordering: to order a
    vocabulary of 262,144 tokens takes longer than a small model takes for a token.
    """
    blocks = len(scores) // _BLOCK
    if blocks < 2 * k:
        return np.partition(scores, -k)[-k]
    maxima = scores[: blocks * _BLOCK].reshape(_BLOCK, blocks).max(axis=0)
    candidates = scores[scores >= max(np.partition(maxima, -k)[-k], np.finfo(scores.dtype).min)]
    return np.partition(candidates, -k)[-k] if len(candidates) >= k else -np.inf


def _without(scores: Scores, tokens: Any) -> Scores:
    """The scores with some tokens forbidden; those beyond the vocabulary do not matter."""
    forbidden = np.asarray(tokens, dtype=np.int64)
    changed = scores.copy()
    changed[forbidden[forbidden < len(scores)]] = -np.inf
    return changed
