"""Sampled answers equal transformers' number for number, and a seed makes them repeatable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from smolorad.domain import Sampling
from smolorad.engine.base import Base
from smolorad.engine.sampling import Sampler, processors, with_seed
from tests.unit.engine.kit import begin, finish, generated_by_transformers, plain_model, spec

SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 17},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.1},
    {"temperature": 0.0, "repetition_penalty": 1.7},
)


def as_generate_options(settings: dict[str, Any]) -> dict[str, Any]:
    sampled = settings["temperature"] > 0
    return {"do_sample": sampled, "top_k": 0} | settings if sampled else {"do_sample": False, "repetition_penalty": 1.7}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_equal_those_of_generate(settings: dict[str, Any], llama_folder: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 400, (1, 30), generator=generator)
    logits = torch.randn(1, 400, generator=generator) * 4
    config = GenerationConfig(**as_generate_options(settings))
    theirs = plain_model(llama_folder)._get_logits_processor(config, input_ids_seq_length=30, device="cpu")
    assert torch.equal(processors(Sampling(**settings))(ids, logits.clone()), theirs(ids, logits.clone()))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_equal_those_of_generate_with_the_same_seed(settings: dict[str, Any], llama: Base, llama_folder: Path) -> None:
    ours = finish(begin(llama, spec("The quick brown fox", max_tokens=40, seed=1234, **settings)))[1].token_ids
    torch.manual_seed(1234)
    theirs = generated_by_transformers(
        plain_model(llama_folder), llama.tokenizer, "The quick brown fox", max_new_tokens=40, **as_generate_options(settings)
    )
    assert list(ours) == theirs


def test_a_drawn_seed_is_told_and_repeats_the_answer(llama: Base) -> None:
    first = finish(begin(llama, spec("A", temperature=1.0, max_tokens=30)))[1]
    assert first.sampling.seed is not None
    again = finish(begin(llama, spec("A", temperature=1.0, max_tokens=30, seed=first.sampling.seed)))[1]
    other = finish(begin(llama, spec("A", temperature=1.0, max_tokens=30)))[1]
    assert again.token_ids == first.token_ids
    assert other.token_ids != first.token_ids
    assert with_seed(Sampling(seed=5)).seed == 5


def test_answers_side_by_side_each_keep_their_own_numbers(llama: Base) -> None:
    alone = [finish(begin(llama, spec("A", temperature=1.0, max_tokens=20, seed=s)))[1].token_ids for s in (1, 2)]
    answers = [begin(llama, spec("A", temperature=1.0, max_tokens=20, seed=s)) for s in (1, 2)]
    while any(answer.outcome is None for answer in answers):
        for answer in answers:
            if answer.outcome is None:
                answer.step()
    assert [answer.outcome.token_ids for answer in answers if answer.outcome] == alone


def test_the_global_generator_is_left_alone(llama: Base) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    finish(begin(llama, spec("A", temperature=1.0, max_tokens=5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_largest_seed_is_taken() -> None:
    sampler = Sampler(Sampling(seed=2**63 - 1))
    assert 0 <= sampler.choose(torch.tensor([[1]]), torch.zeros(1, 8)) < 8
