"""The tokens of one generation, computed a step at a time. Knows nothing of text."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.generate.prefix_cache import AdapterPrefixes
from smolorad.engine.generate.prompt_lookup import PromptLookup
from smolorad.engine.generate.sampler import Sampler
from smolorad.engine.model.runner import CacheSupport, ModelRunner
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, NativeRunner, Part
from smolorad.errors import NotFinite

# Prompt tokens that one step computes: enough to be efficient, few enough that other requests get their turn.
PREFILL_CHUNK = 512


class Sequence:
    """Prompt and generated tokens as ids, and the KV cache of those already computed.

    Each step computes the next tokens that are not in the KV cache yet: a chunk of the prompt, or the token chosen last. So
    prefill and decode are the same operation. The native step computes it, where there is one, and takes a prompt in steps of
    its own where that is cheaper. Where it is not, torch's larger products are faster for a long prompt, if there is a runner
    for it: an adapter may have the native step alone.

    With the last token the native step computes guesses of what follows it, taken from the text: each guess that sampling
    confirms is one more token. Not in a batch: a step of several sequences is bound by arithmetic, and all would wait for the
    guesses of one.

    Some models rotate keys in another way once a sequence is longer than the model's first context (longrope). Such a sequence
    is computed again when it gets there.
    """

    def __init__(
        self,
        runner: ModelRunner | None,
        native: NativeRunner | None,
        prompt: Ids[int],
        sampler: Sampler,
        *,
        prefixes: AdapterPrefixes,
        end_ids: frozenset[int],
        not_finite: str,
    ) -> None:
        """At least one of `runner` and `native` is given; `not_finite` is the message of NotFinite."""
        self._runner = runner
        self._native = native
        self._cache_support = runner.cache_support if runner is not None else CacheSupport.CHUNKS
        self._all_prefixes = prefixes
        self._short_context = (
            native.model.decoder.short_context if native is not None else runner.short_context if runner else 0
        )
        self._end_ids = end_ids
        self._not_finite = not_finite
        self._sampler = sampler
        self._lookup = PromptLookup()
        self._ids = np.empty(len(prompt) + sampler.sampling.max_tokens, dtype=np.int64)
        self._ids[: len(prompt)] = prompt
        self._length = len(prompt)
        self._computed = 0
        self._guesses: list[int] = []  # tokens that the next step computes before they are chosen
        self._recomputed = False
        self._start_over()
        self.reused_tokens = self._reuse_prefix(prompt)

    @property
    def _prefixes(self) -> AdapterPrefixes | None:
        """The entries that were computed as this sequence is."""
        if self._cache_support is not CacheSupport.CHUNKS:
            return None
        return self._all_prefixes.of_long_texts() if self._is_long else self._all_prefixes

    @property
    def native(self) -> NativeModel | None:
        """What computes the next step, if that is the native step, which may compute other sequences along with it."""
        if self._native is None or self._by_torch:
            return None
        min_prefill_tokens = self._native.model.min_prefill_tokens
        return None if min_prefill_tokens and self._length - self._computed >= min_prefill_tokens else self._native.model

    @property
    def cache_bytes(self) -> int:
        """Bytes of the KV cache, as far as it is computed."""
        return int(self._cache.used_nbytes) if self._cache is not None else 0

    @property
    def _by_torch(self) -> bool:
        if self._native is None:
            return True
        long = self._length - self._computed > MAX_ROWS
        return long and self._runner is not None and not self._native.model.takes_prompts

    def next_tokens(self, max_tokens: int = MAX_ROWS, *, guesses: bool = True) -> Part:
        """The tokens of the next step, for `native`: at most `max_tokens`, with or without guesses."""
        assert self._native is not None
        tokens = self._ids[self._computed : min(self._computed + max_tokens, self._length)].tolist()
        if guesses and self._length - self._computed == 1:
            max_guesses = min(max_tokens, len(self._ids) - self._length) - 1  # a step makes one token more than it guesses
            if self._short_context and not self._is_long:
                max_guesses = min(max_guesses, self._short_context - self._length)
            self._guesses = self._lookup.guess(self._ids[: self._length], max_guesses)
        return Part([*tokens, *self._guesses], self._cache, self._native.lora, every=bool(self._guesses))

    def step(self, logits: NDArray[np.float32] | None = None) -> list[int]:
        """Computes once, and returns the tokens chosen: none before the end of the prompt, several where guesses were right.

        `logits` (n, vocabulary) are those of `next_tokens`, where `native` has computed them already.
        Raises NotFinite if the logits stay NaN or infinite when everything is computed again, once.
        """
        if logits is None:
            logits = self._compute()
        guesses, self._guesses = self._guesses, []
        if self._native is not None:
            self._computed = self._cache.length - len(guesses)
        if self._computed < self._length:
            return []
        chosen = self._choose(logits, guesses)
        if not chosen:
            self._recompute()
            return []
        if guesses:
            self._computed += len(chosen) - 1
            self._cache.crop(self._computed)
        self._lookup.stepped(len(guesses), len(chosen))
        if not self._is_long and self._has_outgrown_short_context:
            self._start_over()
        return chosen

    def finish(self) -> None:
        """No step follows: the KV cache is kept for prompts that share a prefix."""
        if self._prefixes is not None:
            self._prefixes.keep(self._ids[: self._computed].tolist(), self._cache)

    def _choose(self, logits: NDArray[np.float32], guesses: Ids[int]) -> list[int]:
        """A token for each row of logits, up to the first that was not guessed."""
        chosen: list[int] = []
        for row, guess in zip(logits, [*guesses, None], strict=True):
            if not np.isfinite(row).all():  # -inf, too: an infinite weight makes it of a negative number
                break
            token = self._sampler.choose(self._ids[: self._length], row)
            chosen.append(token)
            if self._length < len(self._ids):
                self._ids[self._length] = token
            self._length += 1
            if token != guess or token in self._end_ids or self._sampler.complete:
                break
        return chosen

    def _compute(self) -> NDArray[np.float32]:
        """The logits (n, vocabulary) after the next step."""
        if not self._by_torch:
            assert self._native is not None
            return self._native.model.step([self.next_tokens()])
        assert self._runner is not None
        begin = self._computed if self._cache is not None else 0
        # transformers' code takes a text for long by the tokens that it gets.
        in_chunks = self._cache_support is CacheSupport.CHUNKS and not self._is_long
        chunk = PREFILL_CHUNK if in_chunks else self._length
        self._computed = min(begin + chunk, self._length)
        return self._runner.compute(self._ids[begin : self._computed], self._cache, begin)

    def _recompute(self) -> None:
        # Seen on MPS with a cache that had grown for long (transformers#47396); a fresh one cured it.
        if self._recomputed:
            raise NotFinite(self._not_finite)
        self._recomputed = True
        self._start_over()

    @property
    def _has_outgrown_short_context(self) -> bool:
        return 0 < self._short_context < self._length

    def _start_over(self) -> None:
        self._cache: Any
        self._is_long = self._has_outgrown_short_context
        if self._native is not None:
            self._cache = self._native.model.cache(len(self._ids), self._length, is_long=self._is_long)
        else:
            assert self._runner is not None
            self._cache = self._runner.cache()
        self._computed, self._guesses = 0, []

    def _reuse_prefix(self, prompt: Ids[int]) -> int:
        """Takes what an earlier sequence with the same prefix has computed; the number of tokens."""
        if self._prefixes is not None:
            self._computed = self._prefixes.begin(prompt, self._cache)
        return self._computed
