"""The log-probabilities told are those of the model itself: equal to transformers', whatever else changed the choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smolorad.domain import GenerateSpec, ResponseFormat, Sampling, TokenLogprob
from smolorad.engine.generate.logprobs import Logprobs
from smolorad.engine.model.base_model import BaseModel
from tests.unit.engine.kit import begin, finish, plain_model

PROMPT = "The quick brown fox"
CHOICES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.7, "top_k": 5, "repetition_penalty": 1.4, "seed": 3},
    {"temperature": 0.5, "presence_penalty": 1.0, "logit_bias": {5: 9.0}, "min_tokens": 20, "seed": 3},
)


def told(base: BaseModel, top: int = 3, form: ResponseFormat | None = None, **sampling: Any) -> tuple[list[TokenLogprob], Any]:
    """What each token of an answer was said to be, and the outcome; every step tells its own."""
    choice = Sampling(max_tokens=20, **sampling)
    answer = begin(base, GenerateSpec(PROMPT, sampling=choice, logprobs=True, top_logprobs=top, response_format=form))
    tokens: list[TokenLogprob] = []
    while answer.outcome is None:
        answer.step()
        fresh = answer.logprobs()
        assert fresh
        tokens += fresh
    assert answer.logprobs() == ()
    return tokens, answer.outcome


@pytest.mark.parametrize("sampling", CHOICES, ids=str)
@pytest.mark.parametrize("form", [None, ResponseFormat(regex="[a-z ]{90}")], ids=["free", "formed"])
def test_they_are_the_log_softmax_of_transformers_logits(
    sampling: dict[str, Any], form: ResponseFormat | None, llama: BaseModel, llama_folder: Path
) -> None:
    tokens, outcome = told(llama, 3, form, **sampling)
    assert [one.token_id for one in tokens] == list(outcome.token_ids)
    prompt = llama.tokenizer(PROMPT).input_ids
    with torch.inference_mode():
        logits = plain_model(llama_folder)(torch.tensor([[*prompt, *outcome.token_ids]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.float().log_softmax(dim=-1)
    for at, one in enumerate(tokens):
        assert one.logprob == pytest.approx(float(expected[at, one.token_id]), abs=1e-4)
        likeliest = expected[at].topk(3)
        assert [top.token_id for top in one.top_logprobs] == likeliest.indices.tolist()
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(likeliest.values.tolist(), abs=1e-4)


def test_greedy_chooses_the_first_of_them(llama: BaseModel) -> None:
    tokens, _ = told(llama, 1, temperature=0.0)
    for one in tokens:
        [top] = one.top_logprobs
        assert (top.token_id, top.token, top.token_bytes, top.logprob) == (
            one.token_id,
            one.token,
            one.token_bytes,
            one.logprob,
        )


def test_the_bytes_of_the_tokens_are_those_of_the_text(llama: BaseModel) -> None:
    request = GenerateSpec(PROMPT, sampling=Sampling(max_tokens=60, seed=7), logprobs=True)
    answer = begin(llama, request)
    text, _ = finish(answer)
    tokens = answer.logprobs()
    spoken = b"".join(one.token_bytes for one in tokens if one.token_id not in llama.end_ids)
    assert spoken.decode(errors="replace") == text
    assert any(one.token == "\N{REPLACEMENT CHARACTER}" for one in tokens), "this answer has a part of a character"
    assert all(one.top_logprobs == () for one in tokens)


def test_a_stop_string_s_tokens_are_told_too(llama: BaseModel) -> None:
    whole, _ = finish(begin(llama, GenerateSpec(PROMPT, sampling=Sampling(temperature=0.0, max_tokens=20))))
    tokens, outcome = told(llama, 0, temperature=0.0, stop=(whole[5:8],))
    assert [one.token_id for one in tokens] == list(outcome.token_ids)


def test_none_are_kept_unless_somebody_asks(llama: BaseModel) -> None:
    answer = begin(llama, GenerateSpec(PROMPT, sampling=Sampling(max_tokens=3)))
    finish(answer)
    assert answer.logprobs() == ()


def test_a_token_that_cannot_be_is_not_among_the_likeliest(llama: BaseModel) -> None:
    logits = np.full(len(llama.tokenizer), -np.inf, dtype=np.float32)
    logits[:2] = (1.0, 0.0)
    notes = Logprobs(llama.vocabulary, top=5)
    notes.note(1, logits)
    [one] = notes.take()
    assert [top.token_id for top in one.top_logprobs] == [0, 1]
    assert one.logprob == one.top_logprobs[1].logprob
