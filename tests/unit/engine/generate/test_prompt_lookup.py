"""Guesses from the text: right ones are tokens for nothing, wrong ones change nothing, and costly ones end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from smolorad.engine.generate import prompt_lookup
from smolorad.engine.generate.prompt_lookup import PromptLookup
from smolorad.engine.generate.token_rate import TokenRate
from smolorad.engine.model.base_model import BaseModel
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, spec

REPEATING = "one two three four five six seven eight nine ten " * 4


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def eager(clock: Clock) -> PromptLookup:
    """One that has measured plain steps of a second each."""
    guesses = PromptLookup(clock)
    for _ in range(6):
        clock.now += 1.0
        guesses.stepped(0, 1)
    return guesses


def test_what_followed_last_time_is_guessed() -> None:
    guesses = eager(Clock())
    assert guesses.guess(np.array([5, 1, 2, 3, 9, 9, 1, 2, 3])) == [9, 9, 1, 2]
    assert guesses.guess(np.array([1, 2, 7, 1, 2, 8, 1, 2])) == [8, 1, 2]  # the latest time
    assert guesses.guess(np.array([1, 2, 3, 4, 5])) == []
    assert guesses.guess(np.array([1])) == []
    assert guesses.guess(np.array([5, 1, 2, 3, 9, 9, 1, 2, 3]), most=1) == [9]
    assert guesses.guess(np.array([5, 1, 2, 3, 9, 9, 1, 2, 3]), most=0) == []


def test_plain_steps_are_measured_first() -> None:
    assert PromptLookup(Clock()).guess(np.array([1, 2, 3, 1, 2, 3])) == []


@pytest.mark.parametrize(("seconds", "kept", "goes_on"), [(1.3, 3, True), (1.3, 1, False), (4.0, 3, False)])
def test_guessing_goes_on_while_it_pays(seconds: float, kept: int, goes_on: bool) -> None:
    clock = Clock()
    guesses = eager(clock)
    for _ in range(4):
        clock.now += seconds
        guesses.stepped(4, kept)
    assert bool(guesses.guess(np.array([1, 2, 3, 1, 2, 3]))) is goes_on


def test_after_a_pause_it_is_tried_again() -> None:
    clock = Clock()
    guesses = eager(clock)
    for _ in range(4):
        clock.now += 2.0
        guesses.stepped(4, 1)
    for _ in range(32):
        assert guesses.guess(np.array([1, 2, 3, 1, 2, 3])) == []
        clock.now += 1.0
        guesses.stepped(0, 1)
    assert guesses.guess(np.array([1, 2, 3, 1, 2, 3])) != []


def run(guesses: PromptLookup, clock: Clock, steps: int, *, kept: int) -> int:
    """Steps in a text that repeats all the time, where a guessed step takes twice as long; how many were guessed."""
    guessed = 0
    for _ in range(steps):
        guess = guesses.guess(np.array([1, 2, 3, 1, 2, 3]))
        clock.now += 2.0 if guess else 1.0
        guesses.stepped(len(guess), kept if guess else 1)
        guessed += bool(guess)
    return guessed


def test_guesses_that_are_never_right_become_ever_rarer() -> None:
    clock = Clock()
    guesses = eager(clock)
    assert run(guesses, clock, 36, kept=1) == 4
    assert run(guesses, clock, 1 + 64, kept=1) == 1
    assert run(guesses, clock, 1 + 128, kept=1) == 1
    assert run(guesses, clock, 10 * 513, kept=1) <= 12


def test_where_guesses_have_become_right_they_go_on() -> None:
    clock = Clock()
    guesses = eager(clock)
    run(guesses, clock, 36, kept=1)
    assert run(guesses, clock, 50, kept=4) == 50
    assert run(guesses, clock, 2 + 32, kept=1) == 2  # and the pause is a short one again
    assert run(guesses, clock, 10, kept=4) == 10


def test_a_pace_follows_what_is_new() -> None:
    pace = TokenRate()
    for _ in range(50):
        pace.add(1.0)
    for _ in range(50):
        pace.add(3.0)
    assert pace.seconds == pytest.approx(3.0, abs=0.01)


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return fp32_base(tiny_model(tmp_path))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_with_guesses_the_answer_is_the_same(base: BaseModel, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = spec(REPEATING, max_tokens=120, temperature=temperature, seed=4)
    monkeypatch.setattr(PromptLookup, "guess", lambda self, ids, most=4: [])
    text, plain = finish(begin(base, asked))

    def prebuild(self: PromptLookup, ids: NDArray[np.int64], most: int = 4) -> list[int]:
        """What will come, but for every seventh token."""
        made = len(ids) - plain.usage.prompt_tokens
        coming = plain.token_ids[made : made + min(most, 4)]
        return [token + (made + at) % 7 // 6 for at, token in enumerate(coming)]

    monkeypatch.setattr(PromptLookup, "guess", prebuild)
    answer = begin(base, asked)
    told, steps = "", 0
    while answer.outcome is None:
        told += answer.step()
        steps += 1
    assert answer.outcome.token_ids == plain.token_ids
    assert told == text
    assert steps < len(plain.token_ids) / 2


def test_an_end_within_the_guesses_ends_the_answer(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptLookup, "guess", lambda self, ids, most=4: prompt_lookup._continuation(ids, min(most, 4)))
    whole, outcome = finish(begin(base, spec(REPEATING, max_tokens=60)))
    stop = whole[20:23]
    text = finish(begin(base, spec(REPEATING, max_tokens=60, stop=(stop,))))[0]
    assert text == whole[: whole.index(stop)]
    for length in (1, 2, 59):
        assert finish(begin(base, spec(REPEATING, max_tokens=length)))[1].token_ids == outcome.token_ids[:length]


def test_in_company_nothing_is_guessed(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptLookup, "guess", lambda self, ids, most=4: [7] * min(most, 4))
    answer = begin(base, spec(REPEATING, max_tokens=60))
    while not answer.tokens:
        answer.step()
    assert len(answer.next_tokens(100).tokens) == 1
