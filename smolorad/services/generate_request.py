"""GenerateRequest: parses and checks it."""

from __future__ import annotations

import json
from dataclasses import astuple

from smolora.v1 import generation_pb2 as pb
from smolorad.domain import GenerateSpec, ResponseFormat, Sampling, check
from smolorad.errors import InvalidRequest
from smolorad.link.convert import from_message
from smolorad.services.validation import check_duration

_PROMPT_LIMIT_BYTES = 2**20
_STOPS_LIMIT = 16
_BAD_WORDS_LIMIT = 256
_BIASES_LIMIT = 1024
_BIAS_LIMIT = 100.0
_FORMAT_LIMIT_BYTES = 2**16


def parse_request(request: pb.GenerateRequest) -> GenerateSpec:
    """The request with every default filled in; raises InvalidRequest."""
    check_duration(request.keep_alive, "keep_alive")
    spec = from_message(GenerateSpec, request)
    check_prompt(spec)
    check(spec)
    if spec.top_logprobs and not spec.logprobs:
        raise InvalidRequest.field("top_logprobs", "goes with logprobs; set that too")
    _check_sampling(spec.sampling)
    if spec.response_format is not None:
        _check_format(spec.response_format)
    return spec


def check_prompt(spec: GenerateSpec) -> None:
    """Whether there is a prompt or a conversation of a bearable size; else raises InvalidRequest."""
    if not spec.prompt and not spec.messages:
        raise InvalidRequest.field("prompt", "is empty; give some text to continue, or messages")
    if spec.prompt and spec.messages:
        raise InvalidRequest.field("prompt", "give exactly one of prompt and messages")
    size = len(spec.prompt.encode()) + sum(len(m.role.encode()) + len(m.content.encode()) for m in spec.messages)
    if size > _PROMPT_LIMIT_BYTES:
        name = "prompt" if spec.prompt else "messages"
        raise InvalidRequest.field(name, f"has {size:,} bytes, but must have at most {_PROMPT_LIMIT_BYTES:,}")
    if any(not message.role for message in spec.messages):
        raise InvalidRequest.field("messages", "each needs a role, such as user or assistant")


def _check_sampling(sampling: Sampling) -> None:
    check(sampling, "sampling.")
    if 0 < sampling.temperature < 0.01:
        raise InvalidRequest.field("sampling.temperature", f"is {sampling.temperature}, but must be 0 or at least 0.01")
    if sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest.field(
            "sampling.min_tokens", f"is {sampling.min_tokens}, but must be at most max_tokens, {sampling.max_tokens}"
        )
    for name, limit in (("stop", _STOPS_LIMIT), ("bad_words", _BAD_WORDS_LIMIT)):
        texts = getattr(sampling, name)
        if len(texts) > limit or "" in texts:
            raise InvalidRequest.field(f"sampling.{name}", f"must be at most {limit} texts, none of them empty")
    within = all(abs(bias) <= _BIAS_LIMIT for bias in sampling.logit_bias.values())  # NaN is not
    if len(sampling.logit_bias) > _BIASES_LIMIT or not within:
        raise InvalidRequest.field("sampling.logit_bias", f"must be at most {_BIASES_LIMIT:,} numbers of -100 to 100")


def _check_format(wanted: ResponseFormat) -> None:
    """Checks what needs no tokenizer; the engine checks the rest before its first token."""
    if [bool(one) for one in astuple(wanted)].count(True) != 1:
        raise InvalidRequest.field("response_format", "give exactly one of json_schema, json_object and regex")
    for name in ("json_schema", "regex"):
        if (size := len(getattr(wanted, name).encode())) > _FORMAT_LIMIT_BYTES:
            raise InvalidRequest.field(
                f"response_format.{name}", f"has {size:,} bytes, but must have at most {_FORMAT_LIMIT_BYTES:,}"
            )
    if wanted.json_schema:
        try:
            schema = json.loads(wanted.json_schema, parse_int=_exact)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest.field("response_format.json_schema", f"cannot be read ({error}); correct it") from error
        if not isinstance(schema, dict):
            raise InvalidRequest.field("response_format.json_schema", "is not a JSON object; write {} for any JSON")


def _exact(digits: str) -> int:
    if abs(number := int(digits)) > 2**53:  # the schema's compiler would round it to another number
        raise ValueError(f"{digits:.40} is beyond 2^53, and so not exact")
    return number
