"""The computation of one generation, a step at a time. Knows nothing of text."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.prompt_lookup import Lookup
from smolorad.engine.generate.sampler import Sampler
from smolorad.engine.model.runner import CacheSupport, ModelRunner
from smolorad.engine.native.decoder import MAX_ROWS, NativeModel, NativeRunner, Part
from smolorad.errors import NotFinite

# Tokens of the prompt that one step computes: long enough to be efficient, short enough that others get their turn.
PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Memory:
    """Where beginnings are found and kept, and under which key."""

    prefixes: PrefixCache
    key: str


class Sequence:
    """Prompt and answer as token ids, and the keys and values of those already computed.

    Each step computes the next tokens that have no keys and values yet: a chunk of the prompt, or the one token chosen last.
    So prefill and decode are the same operation. The native step computes it, where there is one, and takes a prompt in steps
    of its own where that is cheaper. Where it is not, torch with its larger products is faster for a long prompt, if there is a
    runner for it: an adapter may have the native step alone.

    With the last token the native step computes what may follow it, as guessed from the text: every guess that the choice
    confirms is a token more. Not in company: a step of several is bound by arithmetic, and all would wait for one's guesses.
    """

    def __init__(
        self,
        runner: ModelRunner | None,
        prompt: Ids[int],
        sampler: Sampler,
        native: NativeRunner | None = None,
        memory: Memory | None = None,
        end_ids: frozenset[int] = frozenset(),
    ) -> None:
        """One of `runner` and `native` at least is given."""
        self._runner = runner
        self._native = native
        self._cache_support = runner.cache_support if runner is not None else CacheSupport.CHUNKS
        self._memory = memory if self._cache_support is CacheSupport.CHUNKS else None
        self._end_ids = end_ids
        self._sampler = sampler
        self._lookup = Lookup()
        self._ids = np.empty(len(prompt) + sampler.sampling.max_tokens, dtype=np.int64)
        self._ids[: len(prompt)] = prompt
        self._length = len(prompt)
        self._computed = 0
        self._guesses: list[int] = []  # tokens that the next step computes on trust
        self._again = False
        self._forget()
        self.remembered = self._remember(prompt)

    @property
    def native(self) -> NativeModel | None:
        """Who computes the next step, if it is the native one, which may compute other sequences' with it."""
        if self._native is None or self._by_torch:
            return None
        min_prefill_tokens = self._native.model.min_prefill_tokens
        return None if min_prefill_tokens and self._length - self._computed >= min_prefill_tokens else self._native.model

    @property
    def _by_torch(self) -> bool:
        if self._native is None:
            return True
        long = self._length - self._computed > MAX_ROWS
        return long and self._runner is not None and not self._native.model.takes_prompts

    def part(self, most: int = MAX_ROWS, *, guesses: bool = True) -> Part:
        """The next step, for `native`: at most so many tokens, with or without guesses."""
        assert self._native is not None
        tokens = self._ids[self._computed : min(self._computed + most, self._length)].tolist()
        if guesses and self._length - self._computed == 1:
            room = min(most, len(self._ids) - self._length) - 1  # a step makes one token more than it guesses
            self._guesses = self._lookup.guess(self._ids[: self._length], room)
        return Part([*tokens, *self._guesses], self._cache, self._native.lora, every=bool(self._guesses))

    def step(self, logits: NDArray[np.float32] | None = None) -> list[int]:
        """Computes once; the tokens chosen: none while the prompt is not yet through, several where guesses were right.

        `logits` (n, vocabulary) come from `part`, where `native` has computed it already.
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
            self._compute_again()
            return []
        if guesses:
            self._computed += len(chosen) - 1
            self._cache.crop(self._computed)
        self._lookup.stepped(len(guesses), len(chosen))
        return chosen

    def finish(self) -> None:
        """No step follows: what was computed is remembered for others."""
        if self._memory is not None:
            self._memory.prefixes.keep(self._memory.key, self._ids[: self._computed].tolist(), self._cache)

    def _choose(self, logits: NDArray[np.float32], guesses: Ids[int]) -> list[int]:
        """A token after each row of logits, as long as they are what was guessed."""
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
            return self._native.model.step([self.part()])
        assert self._runner is not None
        begin = self._computed if self._cache is not None else 0
        most = PREFILL_CHUNK if self._cache_support is CacheSupport.CHUNKS else self._length
        self._computed = min(begin + most, self._length)
        return self._runner.compute(self._ids[begin : self._computed], self._cache, begin)

    def _compute_again(self) -> None:
        # Seen on MPS with a cache that had grown for long (transformers#47396); a fresh one cured it.
        if self._again:
            raise NotFinite("The model's logits are not finite numbers; load it in float32, or train the adapter again.")
        self._again = True
        self._forget()

    def _forget(self) -> None:
        self._cache: Any
        if self._native is not None:
            self._cache = self._native.model.cache(len(self._ids), self._length)
        else:
            assert self._runner is not None
            self._cache = self._runner.cache()
        self._computed, self._guesses = 0, []

    def _remember(self, prompt: Ids[int]) -> int:
        """How many of the prompt's tokens need not be computed, as somebody began alike."""
        beginning = self._memory.prefixes.find(self._memory.key, prompt) if self._memory is not None else None
        if beginning is None:
            return 0
        self._cache.begin_with(beginning.cache, beginning.length)
        self._computed = beginning.length
        return beginning.length
