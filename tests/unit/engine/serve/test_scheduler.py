"""Turns: nobody starves, neither an answer nor the training."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smolorad.engine.serve.scheduler import LONGEST_SLICE_S, Scheduler


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_turns_go_round() -> None:
    schedule: Scheduler[str] = Scheduler()
    for name in "abc":
        schedule.add(name)
    assert [schedule.next() for _ in range(4)] == ["a", "b", "c", "a"]
    schedule.remove("c")
    schedule.add("d")
    assert [schedule.next() for _ in range(4)] == ["b", "a", "d", "b"]
    assert len(schedule) == 3
    assert "c" not in schedule


@given(
    answers=st.integers(1, 5),
    step_s=st.floats(0.001, 0.4),
    micro_steps=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=30),
)
def test_every_answer_steps_and_training_keeps_half(answers: int, step_s: float, micro_steps: list[float]) -> None:
    clock = Clock()
    schedule: Scheduler[int] = Scheduler(clock)
    for i in range(answers):
        schedule.add(i)
    schedule.begin_training()
    for training_s in micro_steps:
        clock.now += training_s
        turns = dict.fromkeys(range(answers), 0)
        begun = clock.now
        for item in schedule.slice():
            turns[item] += 1
            clock.now += step_s
        assert min(turns.values()) >= 1
        assert max(turns.values()) - min(turns.values()) <= 1
        one_round = answers * step_s
        assert clock.now - begun <= max(min(training_s, LONGEST_SLICE_S), one_round) + step_s + 1e-9


def test_a_turn_in_company_is_a_turn() -> None:
    clock = Clock()
    schedule: Scheduler[str] = Scheduler(clock)
    for name in "abcd":
        schedule.add(name)
    schedule.begin_training()
    turns = []
    for item in schedule.slice():
        turns.append(item)
        if item == "a":
            schedule.rotate("c")
    assert turns == ["a", "b", "d"]
    assert schedule.all() == ("a", "c", "b", "d")


def test_a_slice_ends_when_the_last_answer_does() -> None:
    clock = Clock()
    schedule: Scheduler[str] = Scheduler(clock)
    schedule.add("a")
    schedule.begin_training()
    clock.now = 10.0
    for item in schedule.slice():
        schedule.remove(item)
    assert len(schedule) == 0
    assert list(schedule.slice()) == []
