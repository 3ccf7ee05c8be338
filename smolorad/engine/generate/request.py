"""One Generate call, from its arrival to its outcome."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from numpy.typing import NDArray

from smolorad.domain import Dtype, FinishReason, GenerateOutcome, GenerateSpec, Timings, TokenLogprob, Usage
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.generate.logprobs import Logprobs
from smolorad.engine.generate.prefix_cache import AdapterPrefixes
from smolorad.engine.generate.prompt import encode, max_new_tokens
from smolorad.engine.generate.sampler import Sampler, SamplingContext, with_seed
from smolorad.engine.generate.sequence import Sequence
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native.decoder import NativeModel, NativeRunner, Part
from smolorad.engine.text.detokenizer import ByteDetokenizer, Detokenizer
from smolorad.engine.text.stop_strings import StopStrings


class GenerationRequest:
    """A generation in progress. It keeps the model it began with, even if another is loaded or its adapter is detached."""

    def __init__(
        self,
        call: int,
        base: BaseModel,
        spec: GenerateSpec,
        *,
        adapter: Adapter | None = None,
        adapter_name: str = "",
        prefixes: AdapterPrefixes,
        arrived: float,
    ) -> None:
        """`adapter_name` is what the outcome names; `arrived` is on the monotonic clock.

        Raises what `encode`, `max_new_tokens`, `GrammarCache.get` and `SamplingContext.of` do.
        """
        prompt = encode(base, spec.prompt, spec.messages, parse_special=spec.parse_special)
        max_tokens = max_new_tokens(base, len(prompt), spec.sampling.max_tokens)
        self.call = call
        self.outcome: GenerateOutcome | None = None
        self._sampling = dataclasses.replace(with_seed(spec.sampling), max_tokens=max_tokens)
        self._logprobs = Logprobs(base.vocabulary, spec.top_logprobs) if spec.logprobs else None
        grammar = base.grammars.get(spec.response_format) if spec.response_format is not None else None
        context = SamplingContext.of(self._sampling, base, len(prompt), grammar)
        self._sampler = Sampler(self._sampling, context, self._logprobs)
        if adapter is not None:
            runner, native = adapter.runner, adapter.native
        else:
            runner, native = base.runner, NativeRunner(base.native) if base.native is not None else None
        not_finite = _not_finite(base.dtype, has_adapter=adapter is not None)
        self._sequence = Sequence(
            runner, native, prompt, self._sampler, prefixes=prefixes, end_ids=base.end_ids, not_finite=not_finite
        )
        self._end_ids = base.end_ids
        self._text = Detokenizer(base.tokenizer) if grammar is None else ByteDetokenizer(base.vocabulary)
        self._stop = StopStrings(self._sampling.stop)
        self._special = base.vocabulary.special if self._sampling.stop else {}
        self._names = {"model": base.name, "adapter": adapter_name}
        self._prompt_tokens = len(prompt)
        self._tokens: list[int] = []
        self._logprobs_sent = 0
        self._arrived = arrived
        self._started_at: float | None = None
        self._first_token_at: float | None = None

    @property
    def tokens(self) -> int:
        """How many tokens were generated."""
        return len(self._tokens)

    @property
    def cache_bytes(self) -> int:
        """Bytes of its KV cache, as far as it is computed."""
        return self._sequence.cache_bytes

    @property
    def native(self) -> NativeModel | None:
        """As `Sequence.native`."""
        return self._sequence.native

    def next_tokens(self, max_tokens: int) -> Part:
        """The tokens of the next step in a batch: as `Sequence.next_tokens`."""
        self._start()
        return self._sequence.next_tokens(max_tokens, guesses=False)

    def step(self, logits: NDArray[np.float32] | None = None) -> str:
        """Computes once, and returns the text that is certain by then, perhaps none. At the end `outcome` is set.

        `logits`: as in `Sequence.step`.
        """
        self._start()
        text = ""
        tokens = self._sequence.step(logits)
        for number, token in enumerate(tokens, 1):
            if self._first_token_at is None:
                self._first_token_at = time.monotonic()
            # The grammar has advanced past every token of this step: what it says now, it says about the last one.
            text += self._take(token, complete=number == len(tokens) and self._sampler.complete)
            if self.outcome is not None:
                break
        return text

    def _take(self, token: int, *, complete: bool) -> str:
        """Takes one more token, which completes the response format or does not; the text that is certain by then."""
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
        """The tokens chosen since the last call; none unless the request asks for log-probabilities."""
        if self._logprobs is None:
            return ()
        fresh = self._logprobs.take()[: len(self._tokens) - self._logprobs_sent]  # not of tokens after a stop string
        self._logprobs_sent += len(fresh)
        return fresh

    def _start(self) -> None:
        if self._started_at is None:
            self._started_at = time.monotonic()

    def cancel(self) -> str:
        """Ends the generation where it is; the text that was held back."""
        return self._end(FinishReason.CANCELLED)

    def _end(self, reason: FinishReason) -> str:
        self._sequence.finish()
        held = self._stop.push(self._text.flush())
        if self._stop.met and reason is FinishReason.LENGTH:
            reason = FinishReason.STOP
        held += self._stop.flush()
        now = time.monotonic()
        started, first = self._started_at or now, self._first_token_at or now
        self.outcome = GenerateOutcome(
            finish_reason=reason,
            usage=Usage(self._prompt_tokens, len(self._tokens), self._sequence.reused_tokens),
            timings=Timings(
                queued_s=started - self._arrived,
                prefill_s=first - started,
                decode_s=now - first,
                first_token_s=self._first_token_at - self._arrived if self._first_token_at is not None else 0.0,
            ),
            sampling=self._sampling,
            token_ids=tuple(self._tokens),
            **self._names,
        )
        return held


def _not_finite(dtype: Dtype, *, has_adapter: bool) -> str:
    """What to say where logits are not finite. Nothing is wider than float32, and not each request has an adapter."""
    advice = [] if dtype is Dtype.FLOAT32 else ["load the model in float32"]
    if has_adapter:
        advice.append("train the adapter again with a lower learning_rate")
    elif not advice:
        advice.append("get the model again, as its own weights may not be finite")
    return f"The model's logits are not finite numbers in {dtype.value}; {', or '.join(advice)}."
