"""One Generate call, from its arrival to its outcome."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence as Ids

import numpy as np
from numpy.typing import NDArray

from smolorad.domain import FinishReason, GenerateOutcome, GenerateSpec, Timings, TokenLogprob, Usage
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.generate.logprobs import Logprobs
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.prompt import encode, room
from smolorad.engine.generate.sampler import Sampler, SamplingContext, with_seed
from smolorad.engine.generate.sequence import Memory, Sequence
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native.decoder import NativeModel, NativeRunner, Part
from smolorad.engine.text.detokenizer import ByteDetokenizer, Detokenizer
from smolorad.engine.text.stop_strings import StopStrings


class GenerationRequest:
    """A generation in progress. It keeps the model it began with, also when another is loaded or its adapter is forgotten."""

    def __init__(
        self,
        call: int,
        base: BaseModel,
        adapter: Adapter | None,
        key: str,
        spec: GenerateSpec,
        arrived: float,
        prefixes: PrefixCache,
    ) -> None:
        """`key` names the adapter, if there is one, and after a `#` its job; `arrived` is on the monotonic clock.

        Raises what `encode`, `room`, `GrammarCache.get` and `SamplingContext.of` do.
        """
        prompt = encode(base, spec.prompt, spec.messages, parse_special=spec.parse_special)
        max_tokens = room(base, len(prompt), spec.sampling.max_tokens)
        self.call = call
        self.outcome: GenerateOutcome | None = None
        self._sampling = dataclasses.replace(with_seed(spec.sampling), max_tokens=max_tokens)
        self._logprobs = Logprobs(base.vocabulary, spec.top_logprobs) if spec.logprobs else None
        grammar = base.grammars.get(spec.response_format) if spec.response_format is not None else None
        around = SamplingContext.of(self._sampling, base, len(prompt), grammar)
        self._sampler = Sampler(self._sampling, around, self._logprobs)
        self._sequence = _sequence(base, adapter, prompt, self._sampler, Memory(prefixes, key))
        self._end_ids = base.end_ids
        self._text = Detokenizer(base.tokenizer) if grammar is None else ByteDetokenizer(base.vocabulary)
        self._stop = StopStrings(self._sampling.stop)
        self._special = base.vocabulary.special if self._sampling.stop else {}
        self._names = {"model": base.name, "adapter": key.partition("#")[0]}
        self._prompt_tokens = len(prompt)
        self._tokens: list[int] = []
        self._told = 0  # of these, in log-probabilities
        self._arrived = arrived
        self._began: float | None = None
        self._first: float | None = None

    @property
    def tokens(self) -> int:
        """How many tokens it has made."""
        return len(self._tokens)

    @property
    def native(self) -> NativeModel | None:
        """As `Sequence.native`."""
        return self._sequence.native

    def part(self, most: int) -> Part:
        """The next step in company: as `Sequence.part`."""
        self._begin()
        return self._sequence.part(most, guesses=False)

    def step(self, logits: NDArray[np.float32] | None = None) -> str:
        """Computes once; the text that is certain by then, perhaps none. At the end `outcome` is set.

        `logits`: as in `Sequence.step`.
        """
        self._begin()
        text = ""
        tokens = self._sequence.step(logits)
        for place, token in enumerate(tokens, 1):
            if self._first is None:
                self._first = time.monotonic()
            # The form has taken every token of this step: what it says now, it says of the last one.
            text += self._take(token, complete=place == len(tokens) and self._sampler.complete)
            if self.outcome is not None:
                break
        return text

    def _take(self, token: int, *, complete: bool) -> str:
        """One more token, which completes the form of the answer or does not; the text that is certain by then."""
        self._tokens.append(token)
        text = "" if token in self._end_ids else self._stop.push(self._text.push(token))
        if (special := self._special.get(token)) is not None:
            text += self._stop.push(self._text.flush()) + self._stop.push(special, shown=False)
        if token in self._end_ids or self._stop.met or complete:
            return text + self._end(FinishReason.STOP)
        if len(self._tokens) == self._sampling.max_tokens:
            return text + self._end(FinishReason.LENGTH)
        return text

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """The tokens chosen since this was last asked; none unless the request wants them."""
        if self._logprobs is None:
            return ()
        fresh = self._logprobs.take()[: len(self._tokens) - self._told]  # not of tokens after a stop string
        self._told += len(fresh)
        return fresh

    def _begin(self) -> None:
        if self._began is None:
            self._began = time.monotonic()

    def cancel(self) -> str:
        """Ends it where it is; the text that was held back."""
        return self._end(FinishReason.CANCELLED)

    def _end(self, reason: FinishReason) -> str:
        self._sequence.finish()
        held = self._stop.push(self._text.flush())
        if self._stop.met and reason is FinishReason.LENGTH:
            reason = FinishReason.STOP
        held += self._stop.flush()
        now = time.monotonic()
        began, first = self._began or now, self._first or now
        self.outcome = GenerateOutcome(
            finish_reason=reason,
            usage=Usage(self._prompt_tokens, len(self._tokens), self._sequence.remembered),
            timings=Timings(
                queued_s=began - self._arrived,
                prefill_s=first - began,
                decode_s=now - first,
                first_token_s=self._first - self._arrived if self._first is not None else 0.0,
            ),
            sampling=self._sampling,
            token_ids=tuple(self._tokens),
            **self._names,
        )
        return held


def _sequence(base: BaseModel, adapter: Adapter | None, prompt: Ids[int], sampler: Sampler, memory: Memory) -> Sequence:
    if adapter is not None:
        return Sequence(adapter.runner, prompt, sampler, adapter.native, memory, base.end_ids)
    native = NativeRunner(base.native) if base.native is not None else None
    return Sequence(base.runner, prompt, sampler, native, memory, base.end_ids)
