"""Scores equal transformers' number for number, tokens come as often as these say, and a seed makes them repeatable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessor

from smolorad.domain import Sampling
from smolorad.engine.generate.logits_processors import kth_largest
from smolorad.engine.generate.sampler import Sampler, SamplingContext, bad_word_ids, processors, with_seed
from smolorad.engine.model.base_model import BaseModel
from smolorad.errors import InvalidRequest
from tests.tiny import tiny_tokenizer
from tests.unit.engine.kit import begin, finish, generated_by_transformers, plain_model, spec

VOCABULARY = 400
PROMPT_TOKENS, END = 30, 0
BAD_WORDS = ("the", "fox jumps")
SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 17},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 1.1, "typical_p": 0.7},
    {"temperature": 1.1, "epsilon_cutoff": 0.004},
    {"temperature": 1.1, "eta_cutoff": 0.01},
    {"temperature": 1.1, "top_h": 0.6},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "no_repeat_ngram_size": 2},
    {"temperature": 1.0, "logit_bias": {7: 5.0, 20: -100.0, 300: 1.5}},
    {"temperature": 1.0, "bad_words": BAD_WORDS},
    {"temperature": 1.0, "min_tokens": 12, "logit_bias": {END: 20.0}},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95, "repetition_penalty": 1.1},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 0.0, "no_repeat_ngram_size": 3, "bad_words": BAD_WORDS, "logit_bias": {9: 3.0}, "min_tokens": 20},
)


def as_generate_options(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings as plain `generate` takes them."""
    options = dict(settings)
    if words := options.pop("bad_words", ()):
        options["bad_words_ids"] = [list(word) for word in bad_word_ids(tiny_tokenizer(), words)]
    if bias := options.pop("logit_bias", {}):
        options["sequence_bias"] = [[[token], value] for token, value in bias.items()]
    if least := options.pop("min_tokens", 0):
        options["min_new_tokens"] = least
    if options["temperature"] == 0:
        del options["temperature"]
        return {"do_sample": False} | options
    return {"do_sample": True, "top_k": 0} | options


class OpenAIsPenalties(LogitsProcessor):
    """mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, as OpenAI's API reference has it."""

    def __init__(self, presence: float, frequency: float) -> None:
        self.presence, self.frequency = presence, frequency

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        c = torch.zeros_like(scores)
        for token in input_ids[0, PROMPT_TOKENS:].tolist():
            c[0, token] += 1
        return scores - self.frequency * c - self.presence * (c > 0)


def scores_of_generate(model: Any, settings: dict[str, Any], ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """What `generate` would choose from after `ids`, the first PROMPT_TOKENS of them the prompt."""
    settings = dict(settings)
    openais = [OpenAIsPenalties(settings.pop("presence_penalty", 0.0), settings.pop("frequency_penalty", 0.0))]
    config = GenerationConfig(**as_generate_options(settings))
    config._eos_token_tensor = torch.tensor([END])
    chain = model._get_logits_processor(config, input_ids_seq_length=PROMPT_TOKENS, device="cpu", logits_processor=openais)
    scores: torch.Tensor = chain(ids, logits)
    return scores


def our_scores(settings: dict[str, Any], ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    sampling = Sampling(**settings)
    context = SamplingContext(PROMPT_TOKENS, frozenset({END}), bad_word_ids(tiny_tokenizer(), sampling.bad_words))
    scores, before = logits[0].numpy(), logits[0].numpy().copy()
    for processor in processors(sampling, context):
        scores = processor(ids[0].numpy(), scores)
    assert np.array_equal(logits[0].numpy(), before), "the logits are told as they were"
    return torch.from_numpy(scores)[None]


@pytest.fixture(scope="module")
def plain(llama_folder: Path) -> Any:
    """The tiny llama as transformers has it."""
    return plain_model(llama_folder)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_equal_those_of_generate(settings: dict[str, Any], plain: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (1, PROMPT_TOKENS + 5), generator=generator)
    ids[:, -3:] = ids[:, :3]
    logits = torch.randn(1, VOCABULARY, generator=generator) * 4
    changed = our_scores(settings, ids, logits.clone())
    assert torch.equal(changed, scores_of_generate(plain, settings, ids, logits.clone()))
    assert settings == {"temperature": 1.0} or not torch.equal(changed, logits)


SHARES = st.floats(0.01, 0.99)
TOKENS = st.integers(0, VOCABULARY - 1)
ANY_SETTINGS = st.fixed_dictionaries(
    {"temperature": st.just(0.0) | st.floats(0.01, 10.0)},
    optional={
        "top_k": st.integers(0, VOCABULARY),
        "top_p": SHARES,
        "min_p": SHARES,
        "typical_p": SHARES,
        "epsilon_cutoff": SHARES,
        "eta_cutoff": SHARES,
        "top_h": SHARES,
        "repetition_penalty": st.floats(0.1, 10.0),
        "presence_penalty": st.floats(-2.0, 2.0),
        "frequency_penalty": st.floats(-2.0, 2.0),
        "no_repeat_ngram_size": st.integers(0, 4),
        "min_tokens": st.integers(0, 10),
        "logit_bias": st.dictionaries(TOKENS, st.floats(-100.0, 100.0), max_size=5),
        "bad_words": st.lists(st.sampled_from(["the", " the", "model", "a", "ten times out"]), max_size=3).map(tuple),
    },
)


@given(settings=ANY_SETTINGS, answer=st.lists(TOKENS | st.integers(0, 5), max_size=12), seed=st.integers(0, 2**32))
def test_scores_equal_those_of_generate_whatever_is_combined(
    plain: Any, settings: dict[str, Any], answer: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(0, 6, (1, PROMPT_TOKENS), generator=generator)
    ids = torch.cat([prompt, torch.tensor([answer], dtype=torch.long)], dim=1)
    logits = torch.randn(1, VOCABULARY, generator=generator) * 4
    ours, theirs = our_scores(settings, ids, logits.clone()), scores_of_generate(plain, settings, ids, logits.clone())
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("settings", [one for one in SETTINGS if one["temperature"] == 0.0], ids=str)
def test_tokens_equal_those_of_generate(settings: dict[str, Any], llama: BaseModel, plain: Any) -> None:
    ours = finish(begin(llama, spec("The quick brown fox", max_tokens=40, **settings)))[1].token_ids
    theirs = generated_by_transformers(
        plain, llama.tokenizer, "The quick brown fox", max_new_tokens=40, **as_generate_options(settings)
    )
    assert list(ours) == theirs


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}], ids=str)
def test_each_token_comes_as_often_as_its_score_says(settings: dict[str, float]) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 1.5, -1.0, 0.5]])
    expected = our_scores({"temperature": 1.0, **settings}, torch.tensor([[1]]), logits).softmax(-1)[0].numpy()
    sampler, draws = Sampler(Sampling(seed=11, **settings)), 20_000
    drawn = [sampler.choose(np.array([1]), logits[0].numpy()) for _ in range(draws)]
    found = np.bincount(drawn, minlength=6) / draws
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / draws)).all()


def test_a_drawn_seed_is_told_and_repeats_the_answer(llama: BaseModel) -> None:
    first = finish(begin(llama, spec("A", temperature=1.0, max_tokens=30)))[1]
    assert first.sampling.seed is not None
    again = finish(begin(llama, spec("A", temperature=1.0, max_tokens=30, seed=first.sampling.seed)))[1]
    other = finish(begin(llama, spec("A", temperature=1.0, max_tokens=30)))[1]
    assert again.token_ids == first.token_ids
    assert other.token_ids != first.token_ids
    assert with_seed(Sampling(seed=5)).seed == 5


def test_answers_side_by_side_each_keep_their_own_numbers(llama: BaseModel) -> None:
    alone = [finish(begin(llama, spec("A", temperature=1.0, max_tokens=20, seed=s)))[1].token_ids for s in (1, 2)]
    answers = [begin(llama, spec("A", temperature=1.0, max_tokens=20, seed=s)) for s in (1, 2)]
    while any(answer.outcome is None for answer in answers):
        for answer in answers:
            if answer.outcome is None:
                answer.step()
    assert [answer.outcome.token_ids for answer in answers if answer.outcome] == alone


def test_the_global_generator_is_left_alone(llama: BaseModel) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    finish(begin(llama, spec("A", temperature=1.0, max_tokens=5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_largest_seed_is_taken() -> None:
    sampler = Sampler(Sampling(seed=2**63 - 1))
    assert 0 <= sampler.choose(np.array([1]), np.zeros(8, dtype=np.float32)) < 8


def test_where_everything_is_forbidden_the_model_s_own_choice_comes() -> None:
    """An answer longer than the vocabulary is, in which no token may come twice: `generate` fails, or repeats token 0."""
    logits = np.arange(8, dtype=np.float32)
    for temperature in (0.0, 0.01):
        sampler = Sampler(Sampling(temperature=temperature, no_repeat_ngram_size=1, seed=0))
        assert sampler.choose(np.arange(8), logits) >= 0
    assert Sampler(Sampling(temperature=0.0, no_repeat_ngram_size=1)).choose(np.arange(8), logits) == 7


def test_a_bad_word_never_comes_at_the_beginning_or_after_a_space(llama: BaseModel) -> None:
    sampling: dict[str, Any] = {"temperature": 1.0, "max_tokens": 200, "seed": 1, "min_tokens": 200}
    text, _ = finish(begin(llama, spec("The quick brown fox", **sampling)))
    words = tuple({word for word in text.split() if word.isalpha()})
    assert words
    _, outcome = finish(begin(llama, spec("The quick brown fox", bad_words=words, **sampling)))
    ids = bad_word_ids(llama.tokenizer, words)
    assert {llama.tokenizer.decode(word) for word in ids} == {*words, *(f" {word}" for word in words)}
    runs = {outcome.token_ids[at : at + len(word)] for word in ids for at in range(200)}
    assert not runs & set(ids)


def test_a_bias_on_a_token_that_is_not_there_is_refused(llama: BaseModel) -> None:
    for token in (-1, len(llama.tokenizer)):
        with pytest.raises(InvalidRequest, match=f"has token {token}, but tokens must be at least 0 and below"):
            begin(llama, spec("A", logit_bias={token: 1.0}))


@given(
    data=st.data(),
    size=st.sampled_from([5, 64, 400, 5000, 70_001]),
    kind=st.sampled_from(["normal", "ties", "few", "none below", "steep"]),
    seed=st.integers(0, 2**16),
)
def test_the_kth_largest_is_that_of_all_scores_in_order(data: st.DataObject, size: int, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=size).astype(np.float32) * np.float32(1e30 if kind == "steep" else 3)
    if kind == "ties":
        scores = np.round(scores)
    if kind in ("few", "none below"):
        forbidden = random.random(size) < (0.999 if kind == "few" else 0.5)
        forbidden[0] = False
        scores[forbidden] = -np.inf
    k = data.draw(st.integers(1, min(size, 700)))
    assert kth_largest(scores, k) == np.sort(scores)[-k]
