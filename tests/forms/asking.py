"""Asks a model for an answer of a form in each way that there is, and says what came of it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from smolorad.domain import FinishReason, GenerateSpec, ResponseFormat, Sampling
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.generate.prompt_lookup import PromptLookup
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel
from tests.forms.corpus import EXPRESSIONS, SCHEMAS, VALID
from tests.unit.engine.kit import begin, finish

MAX_TOKENS = 400


@dataclass(frozen=True)
class Form:
    """One entry of the corpus."""

    name: str
    format: ResponseFormat
    expected: str
    fits: Callable[[str], bool]


@dataclass(frozen=True)
class Said:
    """One answer."""

    text: str
    reason: FinishReason
    token_ids: tuple[int, ...]


def _validator(schema: Any) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        cls = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `&&` and `--` in sets
            return bool(cls(schema, format_checker=cls.FORMAT_CHECKER).is_valid(json.loads(text)))

    return fits


def _matcher(expression: str) -> Callable[[str], bool]:
    def matches(text: str) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `&&` and `--` in sets
            return re.fullmatch(expression, text) is not None

    return matches


def forms() -> list[Form]:
    """All of the corpus."""
    by_schema = [
        Form(name, ResponseFormat(json_schema=json.dumps(schema)), expected, _validator(schema))
        for name, (schema, expected) in SCHEMAS.items()
    ]
    return by_schema + [
        Form(expression, ResponseFormat(regex=expression), expected, _matcher(expression))
        for expression, expected in EXPRESSIONS.items()
    ]


def valid_forms() -> list[Form]:
    """Those that can be guaranteed."""
    return [form for form in forms() if form.expected == VALID]


def request(base: BaseModel, form: Form, *, greedy: bool, seed: int, prompt: str = "The model", **more: Any) -> GenerateSpec:
    """A tiny model knows nothing of endings: it is drawn to them. That bends its choice, and never the form."""
    closing = {base.tokenizer.convert_tokens_to_ids(token): 12.0 for token in ('"', "}", "]", "0", "x", "y", "e", ".", "@")}
    bias = closing | dict.fromkeys(base.end_ids, 14.0)
    settings = {"temperature": 0.0 if greedy else 1.0, "seed": seed, "max_tokens": MAX_TOKENS, "logit_bias": bias, **more}
    return GenerateSpec(prompt=prompt, sampling=Sampling(**settings), response_format=form.format)


def ask(base: BaseModel, spec: GenerateSpec, adapter: Adapter | None = None) -> Said:
    """One answer, alone."""
    text, outcome = finish(begin(base, spec, adapter, "tuned" if adapter is not None else ""))
    return Said(text, outcome.finish_reason, outcome.token_ids)


def ask_together(base: BaseModel, specs: Sequence[GenerateSpec], adapter: Adapter | None = None) -> list[Said]:
    """Several answers, each step computed for all of them at once."""
    answers = [begin(base, spec, adapter, "tuned" if adapter is not None else "") for spec in specs]
    texts = [answer.step() for answer in answers]
    while running := [at for at, answer in enumerate(answers) if answer.outcome is None]:
        for at, text in zip(running, _step([answers[at] for at in running]), strict=True):
            texts[at] += text
    outcomes = [answer.outcome for answer in answers if answer.outcome is not None]
    return [Said(text, outcome.finish_reason, outcome.token_ids) for text, outcome in zip(texts, outcomes, strict=True)]


def _step(answers: list[GenerationRequest]) -> list[str]:
    native = answers[0].native
    assert native is not None
    logits = native.step([answer.next_tokens(1) for answer in answers])
    return [answer.step(logits[at : at + 1]) for at, answer in enumerate(answers)]


@contextmanager
def guesses(patch: pytest.MonkeyPatch, guess: Callable[[NDArray[np.int64], int], list[int]]) -> Iterator[None]:
    """Within it, prompt lookup is what is given."""
    with patch.context() as patched:
        patched.setattr(PromptLookup, "guess", lambda self, ids, most=4: guess(ids, min(most, 4)))
        yield


def nothing(ids: NDArray[np.int64], most: int) -> list[int]:
    """No guess."""
    return []


def right(prompt_tokens: int, coming: Sequence[int], *, wrong_each: int = 0) -> Callable[[NDArray[np.int64], int], list[int]]:
    """Always what will come; of every so many tokens one is another."""

    def guess(ids: NDArray[np.int64], most: int) -> list[int]:
        made = len(ids) - prompt_tokens
        guessed = list(coming[made : made + most])
        if wrong_each:
            guessed = [token + 1 if (made + at) % wrong_each == wrong_each - 1 else token for at, token in enumerate(guessed)]
        return guessed + [7] * (most - len(guessed))  # and past the end

    return guess
