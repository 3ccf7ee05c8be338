"""Calls that generate, and count tokens.

`smolora._sync.generation` is generated from this file: change this one, then run scripts/unasync.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Unpack

from smolora import _values as values
from smolora._async.calls import Calls
from smolora._async.streams import AsyncGeneration
from smolora._convert import from_message
from smolora._errors import InvalidRequest
from smolora._fields import SamplingKeywords
from smolora._references import AnyPath, model_reference
from smolora._settings import conversation, duration, fill, response_format, sampling
from smolora.v1 import generation_pb2, generation_pb2_grpc


class GenerationCalls(Calls):
    """What a client asks the loaded model."""

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[values.ChatMessage | Mapping[str, str]] | None = None,
        model: AnyPath = "",
        adapter: str = "",
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        json_schema: str | Mapping[str, Any] | None = None,
        json_object: bool = False,
        regex: str | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        parse_special: bool = False,
        keep_alive: float | timedelta | None = None,
        timeout: float | None = None,
        **settings: Unpack[SamplingKeywords],
    ) -> AsyncGeneration:
        """Continues `prompt`, or answers `messages`: exactly one of them. Iterate the answer, or call its `text()`.

        `adapter` is `name` or `name@revision`; empty is the base alone.
        `settings`: those of Sampling by name: `max_tokens=40, temperature=0.7, stop="."`. What is left out takes the contract's
        default. `max_new_tokens` and `min_new_tokens` are other names of `max_tokens` and `min_tokens`.
        `json_schema`, `json_object` or `regex` gives the answer a form: JSON that is valid by the schema (a mapping or JSON
        text), any JSON object, or a text that the expression matches. Where the outcome's finish_reason is `length`, or a stop
        string was met, the answer may be incomplete.
        `logprobs` collects each token's log-probability in the answer's `logprobs`, with that of the `top_logprobs` likeliest.
        `parse_special` reads the spelling of a control token, as `<|im_end|>`, in the prompt or in messages as that token;
        by default it is text. What the chat template writes is always control tokens.
        `timeout`: seconds the whole answer may take; no limit by default.
        """
        if (prompt is None) == (messages is None):
            raise InvalidRequest("generate() takes exactly one of prompt and messages; give one of them.")
        request = fill(
            generation_pb2.GenerateRequest,
            prompt=prompt or "",
            messages=conversation(messages),
            model=model_reference(model),
            adapter=adapter,
            sampling=sampling(settings, max_tokens=max_new_tokens, min_tokens=min_new_tokens),
            keep_alive=duration(keep_alive),
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            response_format=response_format(json_schema, json_object, regex),
            parse_special=parse_special,
        )
        stub = generation_pb2_grpc.GenerationServiceStub
        return AsyncGeneration(self._stream(stub, "Generate", request, idle=None, timeout=timeout))

    async def count_tokens(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[values.ChatMessage | Mapping[str, str]] | None = None,
        parse_special: bool = False,
    ) -> values.TokenCount:
        """The tokens of a text or a conversation, as the loaded model sees it; `parse_special` as in `generate`."""
        if (prompt is None) == (messages is None):
            raise InvalidRequest("count_tokens() takes exactly one of prompt and messages; give one of them.")
        request = fill(
            generation_pb2.CountTokensRequest,
            prompt=prompt or "",
            messages=conversation(messages),
            parse_special=parse_special,
        )
        answer = await self._call(generation_pb2_grpc.GenerationServiceStub, "CountTokens", request)
        return from_message(values.TokenCount, answer)

    async def decode_tokens(self, token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids of the loaded model."""
        request = generation_pb2.DecodeTokensRequest(token_ids=token_ids, skip_special_tokens=skip_special_tokens)
        answer = await self._call(generation_pb2_grpc.GenerationServiceStub, "DecodeTokens", request)
        return str(answer.text)
