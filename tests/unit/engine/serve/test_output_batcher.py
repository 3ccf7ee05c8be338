"""Pieces of text on their way out: nothing lost, nothing late, few of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from smolorad.domain import TokenLogprob
from smolorad.engine.serve.output_batcher import INTERVAL_S, OutputBatcher


class Sent:
    """What went out, and a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.batcher = OutputBatcher(lambda call, **body: self.events.append((call, body)), lambda: self.now)

    def texts(self, call: int = 1) -> list[str]:
        return [body["text"] for which, body in self.events if which == call and "text" in body]


def test_the_first_piece_goes_at_once_and_later_ones_together() -> None:
    sent = Sent()
    for piece in "abcdef":
        sent.batcher.push(1, piece)
        sent.now += INTERVAL_S / 2
    assert sent.texts() == ["a", "bc", "de"]
    sent.batcher.end(1)
    assert sent.texts() == ["a", "bc", "de", "f"]


def test_slow_tokens_go_out_as_they_come() -> None:
    sent = Sent()
    for piece in "abc":
        sent.batcher.push(1, piece)
        sent.now += 2 * INTERVAL_S
    assert sent.texts() == ["a", "b", "c"]


def test_one_generation_does_not_wait_for_another() -> None:
    sent = Sent()
    sent.batcher.push(1, "a")
    sent.batcher.push(1, "b")
    sent.batcher.push(2, "x")
    assert sent.texts(2) == ["x"]


def test_of_many_each_speaks_less_often_and_all_together() -> None:
    sent = Sent()
    for step in range(40):
        for call in range(8):
            sent.batcher.push(call, "a" if step else "A")
        sent.now += INTERVAL_S / 4
    times = [len(sent.texts(call)) for call in range(8)]
    assert set(times) == {times[0]}
    assert 1 + 40 / 4 / 2.75 - 1 <= times[0] <= 1 + 40 / 4 / 2.75 + 1
    begins = [at for at, (call, _) in enumerate(sent.events) if call == 0]
    assert [call for call, _ in sent.events] == list(range(8)) * len(begins)


def test_before_a_silence_everything_goes_out() -> None:
    sent = Sent()
    for call in (1, 2):
        sent.batcher.push(call, "a")
        sent.batcher.push(call, "b")
    sent.batcher.flush()
    assert sent.texts(1) == sent.texts(2) == ["a", "b"]


def test_nothing_to_say_is_no_event() -> None:
    sent = Sent()
    sent.batcher.push(1, "")
    sent.batcher.flush()
    sent.batcher.end(1)
    assert sent.events == []


def test_log_probabilities_go_before_their_text() -> None:
    sent = Sent()
    sent.batcher.push(1, "a", [TokenLogprob(3, "a", b"a", -1.0)])
    assert [next(iter(body)) for _, body in sent.events] == ["token_logprob", "text"]


@given(st.lists(st.tuples(st.integers(1, 3), st.text(max_size=3), st.floats(0, 2 * INTERVAL_S)), max_size=30))
def test_nothing_is_lost_and_nothing_is_turned_round(steps: list[tuple[int, str, float]]) -> None:
    sent = Sent()
    for call, piece, pause in steps:
        sent.batcher.push(call, piece)
        sent.now += pause
    for call in (1, 2, 3):
        sent.batcher.end(call)
        assert "".join(sent.texts(call)) == "".join(piece for which, piece, _ in steps if which == call)
        assert "" not in sent.texts(call)
